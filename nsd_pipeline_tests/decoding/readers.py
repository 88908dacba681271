"""Sessions that are read row by row, without a store."""

import numpy as np


class Session:
    """Serves rows of an array as a session's reader does, and remembers which were read."""

    def __init__(self, values, chunk_rows=10):
        self.values, self.chunk_rows, self.reads = values, chunk_rows, []
        self.n_rows, self.n_vertices = values.shape

    def read(self, rows, *, out):
        assert (np.diff(rows) > 0).all()
        self.reads.append(np.array(rows))
        out[:] = self.values[rows]
        return out


def sessions_of(data, chunk_rows=10):
    """Readers of the sessions of trials that are in memory."""
    keys = data.table[["subject", "session"]].apply(tuple, axis=1)
    return {
        key: Session(data.rows.values[data.first_row[(keys == key).to_numpy()]], chunk_rows)
        for key in dict.fromkeys(keys)
    }
