"""How fast the web UI answers: what it asks in a browser, asked again without one."""

import json
import shutil
import statistics
import time
import urllib.request
from collections.abc import Mapping
from typing import Any, Final

PAGES: Final = {
    "asset graph": "/asset-groups",
    "partitions": "/assets/fsaverage5_betas?view=partitions",
    "runs": "/runs",
}
_LOOK: Final = 8_000
"""Milliseconds for which a page stays open: its first requests lead to others."""


def answer_times(url: str, *, repetitions: int = 10) -> dict[str, dict[str, Any]]:
    """Open pages in Chromium, note their GraphQL requests, and time these one after the other.

    Parameters
    ----------
    url
        The web UI.

    Returns
    -------
    dict
        By page: number of ``requests``, ``median`` and ``max`` of all answers in seconds,
        ``slowest`` request by name, and the median ``bytes`` of an answer. Empty if there is no
        Chromium.
    """
    program = shutil.which("chromium") or shutil.which("chromium-browser")
    if program is None:
        return {}
    return {
        page: _time(f"{url}/graphql", asked, repetitions)
        for page, asked in _record(url, program).items()
    }


def _record(url: str, program: str) -> dict[str, dict[str, bytes]]:
    """Bodies of the GraphQL requests of each page, each once, by name and number."""
    from playwright.sync_api import Request, sync_playwright

    found: dict[str, dict[str, bytes]] = {}
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        for name, path in PAGES.items():
            asked = found.setdefault(name, {})
            page = browser.new_page(base_url=url, viewport={"width": 1400, "height": 800})

            def note(request: Request, asked: dict[str, bytes] = asked) -> None:
                body = request.post_data_buffer
                if "/graphql" in request.url and body and body not in asked.values():
                    operation = json.loads(body).get("operationName")
                    asked[f"{operation} {len(asked)}"] = body

            page.on("request", note)
            page.goto(path, timeout=120_000)
            page.wait_for_timeout(_LOOK)
            page.close()
        browser.close()
    return found


def _time(url: str, asked: Mapping[str, bytes], repetitions: int) -> dict[str, Any]:
    times: dict[str, list[float]] = {name: [] for name in asked}
    sizes = []
    for _ in range(repetitions):
        for name, body in asked.items():
            request = urllib.request.Request(  # noqa: S310, on loopback
                url, body, {"Content-Type": "application/json"}
            )
            start = time.perf_counter()
            with urllib.request.urlopen(request, timeout=120) as answer:  # noqa: S310
                sizes.append(len(answer.read()))
            times[name].append(time.perf_counter() - start)
    together = [each for taken in times.values() for each in taken]
    slowest = max(times, key=lambda name: statistics.median(times[name]))
    return {
        "requests": len(asked),
        "median": statistics.median(together),
        "max": max(together),
        "slowest": slowest.split()[0],
        "median of the slowest": statistics.median(times[slowest]),
        "bytes": statistics.median(sizes),
    }
