# The first quarter of an hour, to be typed in a clone of this repository. The tests run what follows
# the line with `activate`, on a smaller dataset.

# Some minutes: a small dataset is generated and taken through the whole graph.
make demo
source .venv/bin/activate
export NSD_SOURCE=$PWD/demo_data/nsd NSD_ENCODER=$PWD/demo_data/tiny_dinov2
export NSD_STORAGE=$PWD/artifacts DAGSTER_HOME=$PWD/.dagster

# What is there?
nsd status

# What does the model retrieve for a trial: among the test images, and among pictures of your own?
nsd retrieve --subject subj01 --session 1 --trial 1
mkdir -p my_pictures && cp docs/images/*.png my_pictures
nsd retrieve --subject subj01 --session 1 --trial 1 --images my_pictures --output among_mine.png

# An experiment of your own: what ridge regression learns from one session.
cp nsd_pipeline/experiments/experiments.yaml my_experiments.yaml
echo 'one_session: {model: ridge, sessions: first 1}' >> my_experiments.yaml
export NSD_EXPERIMENTS=$PWD/my_experiments.yaml
nsd plan subj01 --experiment one_session
nsd run subj01 --experiment one_session

# Compare: top-5 accuracy of each experiment minus that of `default`, with intervals. The figures are in
# artifacts/decoding_report/report.html.
cat artifacts/decoding_report/differences.csv

# For others: what is retrieved for each test trial, as a table.
nsd export --subject subj01 --experiment one_session --to csv --output exported

# The same in Python.
python - <<EOF
import nsd_pipeline as nsd

store = nsd.open("artifacts")
betas = store.betas("subj01", sessions="1")
for experiment in ("default", "one_session"):
    decoder = store.decoder("subj01", experiment)
    table = decoder.retrieve(decoder.ensemble(betas[betas.shared]), n_top=5)
    found = table[table.seen].groupby("row").ngroups
    print(experiment, f"{found} of {betas.shared.sum().item()} test trials among the first five")
EOF
