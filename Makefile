# `make demo` shows clipping at work, `make test` runs the tests, `make dist` makes what is released; each sets up what it
# needs first.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test test-minimums test-site test-trainers test-triton check bench dist laws docs methods site clean

demo: .venv/ready
	$(BIN)/gradclip demo --out out

# Containers often forbid to keep compiled modules, and then each of the processes under test compiles the package anew.
export PYTHONDONTWRITEBYTECODE :=

# A process for each core, of which each holds three frameworks in memory; one thread in each, or they wait for another.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --maxprocesses 4 --dist worksteal

test: .venv/ready
	$(PYTEST)
	@echo "Every law was tried on every engine. The long form draws more gradients and makes the pages anew: make laws"

# The doors of trainers, each with the real package: an environment with these, which sees the packages of .venv too.
test-trainers: .venv-trainers/ready
	OMP_NUM_THREADS=1 .venv-trainers/bin/python -m pytest -n auto --maxprocesses 4 --dist worksteal tests/trainers

PURELIB := -c "import sysconfig; print(sysconfig.get_path('purelib'))"

# The operators of torchvision are compiled for CUDA, and PyTorch here for CPUs: who imports it fails. Nobody needs it.
.venv-trainers/ready: .venv/ready
	$(PYTHON) -m venv .venv-trainers
	echo "import site; site.addsitedir('$$($(BIN)/python $(PURELIB))')" \
		> $$(.venv-trainers/bin/python $(PURELIB))/of_venv.pth
	.venv-trainers/bin/python -m pip install --quiet --constraint constraints.txt --editable ".[trainers]"
	.venv-trainers/bin/python -m pip uninstall --quiet --yes torchvision
	touch $@

# The kernels of Triton, run in Python, in an environment of their own: it needs an older numpy than the rest.
test-triton: .venv-triton/ready
	TRITON_INTERPRET=1 OMP_NUM_THREADS=1 .venv-triton/bin/python -m pytest -n auto --maxprocesses 4 --dist worksteal \
		tests/laws/test_engines_keep_the_laws.py tests/engines/test_triton.py tests/benchmarks/test_device.py

.venv-triton/ready: pyproject.toml constraints-triton.txt
	$(PYTHON) -m venv .venv-triton
	.venv-triton/bin/python -m pip install --quiet --constraint constraints-triton.txt --editable ".[cuda,torch]" \
		hypothesis pytest pytest-xdist
	touch $@

# The pages of docs as a site that asks nobody for anything; in an environment that has no framework.
site: .venv-site/ready
	NO_MKDOCS_2_WARNING=1 .venv-site/bin/python -m mkdocs build --strict
	@echo "open $(CURDIR)/site/index.html"

test-site: site .venv/ready
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --maxprocesses 4 --dist worksteal tests/site

.venv-site/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv-site
	.venv-site/bin/python -m pip install --quiet --constraint constraints.txt --editable ".[docs]"
	touch $@

# The lowest versions that pyproject.toml allows, which Python 3.11 has; an index with builds of PyTorch for CPUs spares
# the gigabytes of CUDA that the others ask for: PIP_EXTRA_INDEX_URL. Left out is what these versions do not have: FSDP2
# on CPUs, devices written in Python, a fused Adagrad under a loss scale and the table of C functions of PyTorch, the
# explicit axes that a mesh of JAX has since by default, axes of the clip by units of Optax, and the form of LLVM's text
# in a test of compiled code.
OF_TOOLS := tests/test_cli.py tests/test_cli_in_a_shell.py tests/test_forked.py tests/test_help_examples.py \
	tests/test_json_documents.py tests/test_release_files.py tests/test_typed.py tests/test_types.py
MINIMUMS := tests/rules tests/step tests/engines tests/laws tests/semantics tests/torch_door tests/optax_door \
	tests/paddle_door $(filter-out $(OF_TOOLS),$(wildcard tests/test_*.py))
LATER := --ignore-glob "tests/torch_door/test_*s_in_processes.py" --ignore tests/torch_door/test_sharded.py \
	--ignore tests/torch_door/test_spread.py --ignore tests/torch_door/test_data_parallel.py \
	--ignore tests/engines/test_torch_devices.py --ignore tests/engines/test_cpu_compile.py \
	--ignore tests/optax_door/test_devices.py --ignore tests/optax_door/test_output_units.py \
	-k "not Adagrad and not cut_into_rows_once and not accelerate"

test-minimums: .venv-minimums/ready
	OMP_NUM_THREADS=1 .venv-minimums/bin/python -m pytest -n auto --maxprocesses 4 --dist worksteal $(MINIMUMS) $(LATER)

.venv-minimums/ready: pyproject.toml release/minimums.py
	$(PYTHON) -m venv .venv-minimums
	.venv-minimums/bin/python release/minimums.py > .venv-minimums/constraints.txt
	.venv-minimums/bin/python -m pip install --quiet --constraint .venv-minimums/constraints.txt \
		--editable ".[completion,cpu,demo,jax,paddle,parquet,report,torch]" flax hypothesis pytest pytest-xdist \
		pytorch-optimizer schedulefree
	touch $@

FORMS := .github/ISSUE_TEMPLATE/bug.yml .github/ISSUE_TEMPLATE/method.yml

check: .venv/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/check-jsonschema --builtin-schema vendor.github-workflows .github/workflows/*.yml
	$(BIN)/check-jsonschema --builtin-schema vendor.github-issue-forms $(FORMS)
	$(BIN)/check-jsonschema --builtin-schema vendor.citation-file-format CITATION.cff

# A wheel and a source archive in dist/, looked through, and installed into fresh environments of CASES on each Python
# that is here; with all extras mypy and pyright check the files of tests/typed against what was installed.
CASES ?= bare torch paddle jax all

dist: .venv-release/ready
	rm -rf dist
	.venv-release/bin/python -m build
	.venv-release/bin/twine check --strict dist/*
	.venv-release/bin/check-wheel-contents dist/*.whl
	.venv-release/bin/python release/archives.py dist
	.venv-release/bin/python release/smoke.py dist $(CASES)

.venv-release/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv-release
	.venv-release/bin/python -m pip install --quiet --constraint constraints.txt build check-wheel-contents mypy \
		"pyright[nodejs]" twine
	touch $@

bench: .venv/ready
	$(BIN)/python -m benchmarks

laws: .venv/ready
	TESTS=long $(PYTEST) --ignore tests/optax_door/test_devices.py tests/laws tests/optax_door tests/meta tests/docs tests/experiments/test_profiles.py \
		tests/paddle_door/test_static_rules.py tests/paddle_door/test_debug_flags.py tests/test_cli_in_a_shell.py \
		tests/test_help_examples.py tests/test_json_documents.py tests/doctor/test_installation.py tests/advice/test_by_trial.py \
		tests/telemetry/test_faults.py tests/doctor/test_trainings.py \
		tests/torch_door/test_data_parallel.py::test_pieces_of_gradients_are_refused_and_whole_ones_are_clipped \
		tests/torch_door/test_examples_in_processes.py::test_torchrun_runs_an_example_as_it_says

docs: .venv/ready
	$(BIN)/python docs/make_tables.py
	$(BIN)/python docs/make_evidence.py
	$(BIN)/python docs/make_evidence_at_size.py
	$(BIN)/python docs/make_suggestions.py
	$(BIN)/python docs/make_which_rule.py
	$(BIN)/python docs/make_methods.py
	$(BIN)/python docs/make_tutorial.py
	$(BIN)/python docs/make_concepts.py
	$(BIN)/python docs/make_cli.py
	$(BIN)/python docs/make_json.py

methods: .venv/ready
	$(BIN)/python docs/make_methods.py

# What pip says is left on: it takes minutes, and shows that they pass.
.venv/ready: pyproject.toml constraints.txt
	@echo "Setting up .venv: three frameworks and their tools, 3.6 GB, some three minutes"
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --disable-pip-version-check --constraint constraints.txt --editable ".[dev]"
	touch $@

clean:
	rm -rf .venv .venv-minimums .venv-release .venv-site .venv-trainers .venv-triton dist site out
