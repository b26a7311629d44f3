# Two commands do everything: `make study` and `make test`.
PYTHON ?= python3.11
PARAMETERS ?= parameters/scaling_law/quick.yaml
# the notebook that the folder of PARAMETERS names
FOLDER = $(notdir $(patsubst %/,%,$(dir $(PARAMETERS))))
NOTEBOOK ?= $(or $(wildcard notebooks/*_$(FOLDER).ipynb),notebooks/01_scaling_law.ipynb)
BATCH ?= $(wildcard parameters/*/quick.yaml)

BIN := .venv/bin

DECKS ?= $(wildcard parameters/start_here/quick.yaml parameters/findings/quick.yaml)

.PHONY: study batch test bench lab app report slides check install

## study: run NOTEBOOK with PARAMETERS; leaves the executed notebook, a page and tables where they say
study: .venv/installed
	$(BIN)/python -m ddlib.publish.execute $(NOTEBOOK) $(PARAMETERS) $(OPTIONS)

## batch: run files of parameters, or folders of them, several at once; go on where it stopped
batch: .venv/installed
	$(BIN)/python -m ddlib.publish.batch $(OPTIONS) $(BATCH)

## test: the whole test suite, one file a core at a time, in their order: slow ones come early
test: .venv/installed
	$(BIN)/python -m pytest -n auto --dist loadfile --no-loadscope-reorder --durations 20

## bench: how fast, against the obvious implementations; BENCH=--quick to see that it works
bench: .venv/installed
	$(BIN)/python -m benchmarks $(BENCH)

## lab: explore in JupyterLab, on this machine only and with its token; it opens notebook 00
lab: .venv/installed
	$(BIN)/jupyter lab --ip=127.0.0.1 --LabApp.default_url=/lab/tree/notebooks/00_start_here.ipynb $(LAB)

## app: the explorers as an app, on this machine only
app: .venv/installed
	JUPYTER_PATH=app $(BIN)/voila --Voila.ip=127.0.0.1 --template=offline \
		--progressive_rendering=True $(APP) notebooks/05_explore.ipynb

## report: one table of all executed notebooks, results/index.html, to open from disk
report: .venv/installed
	$(BIN)/python -m ddlib.publish.report

## slides: run the notebooks of DECKS, files of parameters, and make a lecture's slides of each
slides: .venv/installed
	$(BIN)/python -m ddlib.publish.batch $(DECKS)
	$(BIN)/jupyter nbconvert --to ddlib.publish.slides.SlidesExporter \
		$(DECKS:parameters/%.yaml=results/%/*.ipynb)

## check: format, lint, and the direction of imports
check: .venv/installed
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/lint-imports --no-cache

## install: make .venv from the project's own files
install: .venv/installed

.venv/installed: pyproject.toml constraints.txt
	@command -v $(PYTHON) >/dev/null || { \
		echo "$(PYTHON) is not here; install Python 3.11 or pass PYTHON=/path/to/python3.11"; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --no-compile --constraint constraints.txt --editable '.[test]'
	@# on all cores, where pip takes one, and without what is seldom loaded, so compiled when it is;
	@# some files of packages are for newer Pythons
	@$(BIN)/python -m compileall -qq -j 0 -x '/(tests?|diffusers|networkx|pip|setuptools)/' \
		.venv/lib ddlib || true
	@touch $@
