# Everything runs in .venv, which the first target makes from the pinned and hashed requirements.lock.
PYTHON ?= python3
BIN := .venv/bin
COMPILE = $(BIN)/pip-compile --quiet --generate-hashes --allow-unsafe --strip-extras --no-emit-index-url \
	--no-emit-trusted-host --no-emit-find-links

.PHONY: run test test-oldest test-all lint coverage mutants verify kill fuzz bench docs site man dist lock kmod clean

# Python keeps its bytecode even where the environment says otherwise: without, each of the hundreds of processes that the
# tests start compiles all modules that it imports.
export PYTHONDONTWRITEBYTECODE =

# The flagship, 10 s of each case.
run: .venv/ready
	$(BIN)/fpswitch run scenarios/rfc-question.toml --engine auto --set run.measure='1 s'

# Each worker takes whole files as long as there are such, so that what a file prepares is prepared once.
test: .venv/ready
	$(BIN)/pytest -n auto --dist worksteal -m "not slow"

test-all: .venv/ready
	$(BIN)/pytest -n auto --dist worksteal

# The quick tests on the lower bounds of pyproject.toml.
OLDEST := numpy==2.0.0 pandas==2.2.2 pyarrow==16.0.0 scipy==1.15.0 pytz
test-oldest: .venv/ready
	$(PYTHON) -m venv build/oldest
	build/oldest/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	build/oldest/bin/python -m pip install --quiet --disable-pip-version-check $(OLDEST)
	build/oldest/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	build/oldest/bin/pytest -n auto --dist worksteal -m "not slow"

lint: .venv/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/reuse --suppress-deprecation lint --quiet

# The quick tests with the branches that they take, those of the compiled engine in Python: 20 minutes of CPU time. What
# only slow tests lead to is missed here. All gates are printed before the status judges them. Python 3.11 traces wrongly
# where an exception leaves a generator through another, as SimPy's interrupts do, so that it takes a newer one:
# make coverage NEWER=python3.13
NEWER ?= python3.13
COMPLETE := xsave kernel host engine
coverage: build/newer/ready
	rm -rf build/coverage && mkdir -p build/coverage
	NUMBA_DISABLE_JIT=1 build/newer/bin/pytest -n auto --dist worksteal -m "not slow" --hypothesis-seed=0 \
		--cov --cov-context=test --cov-report= --junitxml=build/coverage/tests.xml
	@status=0; for each in $(COMPLETE); do \
		build/newer/bin/coverage report --include="sim/$$each/*" --fail-under=100 || status=1; done; \
		build/newer/bin/coverage report --include="sim/*" --fail-under=95 || status=1; exit $$status

build/newer/ready: requirements.lock
	$(NEWER) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 12) else "coverage needs Python 3.12 or newer")'
	$(NEWER) -m venv build/newer
	build/newer/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	build/newer/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	touch $@

# Needs the result of `make coverage`: 500 changes of the model, and the tests that should fail.
mutants: .venv/release build/coverage/tests.xml
	$(BIN)/python tests/mutants.py $(if $(NUMBER),--number $(NUMBER)) $(if $(SEED),--seed $(SEED))

build/coverage/tests.xml:
	@echo 'run `make coverage` first'; exit 1

# What lives in sim/verification and takes longer than tests may: twenty minutes on two CPUs.
verify: .venv/ready
	$(BIN)/fpswitch verify vectors tests/data/vectors/*.jsonl tests/data/vectors/ring0/*.jsonl
	$(BIN)/fpswitch verify anchors
	$(BIN)/fpswitch verify statistics
	$(BIN)/fpswitch verify theory
	ENGINE_HOSTS=2000 $(BIN)/pytest -q -n 0 -m '' tests/test_engine.py -k 'ties or shipped'

# Half an hour: 500 kills of runs on this machine, and what happens to a Dask cluster.
kill: .venv/ready
	$(BIN)/fpswitch verify kill --kills 500 --cluster

# Hours: 100,000 damaged inputs of each reader, guided by the coverage of the code.
fuzz: .venv/fuzz
	$(BIN)/fpswitch verify fuzz --inputs $(or $(INPUTS),100000)

# All ratios are printed before the status judges them.
bench: .venv/ready
	@status=0; for each in kernel_model host trace_reading engine; do $(BIN)/python benchmarks/$$each.py || status=1; done; exit $$status

docs: .venv/ready
	$(BIN)/python -m sim.kernel.versions > docs/kernel-versions.md
	$(BIN)/python -m sim.scenario.document

# The documentation as a site, in build/site, and a man page per command, in build/man.
site man: .venv/docs
	$(BIN)/sphinx-build -q -W --keep-going -b $(if $(filter site,$@),html,man) docs build/$@

# A wheel, an sdist and their list of parts (SBOM, CycloneDX) in dist/; the wheel is installed in an environment of its
# own and tried from another directory. cyclonedx-py knows no dynamic version.
dist: .venv/release
	rm -rf dist build/dist
	$(BIN)/hatchling build
	mkdir -p build
	sed "s/^dynamic = .*/version = \"$$($(BIN)/python -c 'import sim; print(sim.__version__)')\"/" pyproject.toml \
		> build/pyproject.toml
	$(BIN)/cyclonedx-py requirements requirements.lock --pyproject build/pyproject.toml --output-reproducible --of JSON \
		-o dist/fpswitch.cdx.json
	$(PYTHON) -m venv build/dist
	build/dist/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	build/dist/bin/python -m pip install --quiet --disable-pip-version-check --no-deps dist/*.whl
	cd build/dist && bin/fpswitch scenarios && bin/fpswitch new dist-check.toml && \
		bin/fpswitch run rfc-question --replications 2 --strategies manual-load,xstate-guest --out dist-check

# The kernel module, against the headers of the running kernel or of KDIR.
kmod:
	$(MAKE) -C kmod/fpswitch_bench $(if $(KDIR),KDIR=$(KDIR))

lock: .venv/ready
	$(COMPILE) --extra dev --extra cluster --extra fast --output-file=requirements.lock pyproject.toml
	$(COMPILE) --extra docs --constraint requirements.lock --output-file=requirements-docs.lock pyproject.toml
	$(COMPILE) --extra fuzz --constraint requirements.lock --output-file=requirements-fuzz.lock pyproject.toml
	$(COMPILE) --extra release --constraint requirements.lock --output-file=requirements-release.lock pyproject.toml

.venv/ready: requirements.lock pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "fpswitch needs Python 3.11 or newer")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	touch $@

.venv/docs .venv/fuzz .venv/release: .venv/%: .venv/ready requirements-%.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-$*.lock
	touch $@

clean:
	rm -rf build dist .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
