# `make run` runs the system, `make test` checks it; both do all their set-up.
PYTHON ?= python3
BIN := .venv/bin
JIGSAW_CSV ?= ../shared/data/jigsaw/train.csv.gz
# Labelled comments in other languages, xx_name.jsonl.gz.
COMMENTS ?= ../shared/data/multilingual
UV := $(BIN)/uv pip
# Install with uv, which is faster, or with pip if only pip's settings name the package index.
INSTALL = $(UV) install -q --system-certs --python $(BIN)/python -r $(1) || $(BIN)/pip install -q --disable-pip-version-check -r $(1)

.PHONY: run test test-all test-sqlite test-long test-week test-cloud test-infra audit bench lock fix clean

run: .venv/static
	@exec $(BIN)/python manage.py serve

TEMPLATES = $(shell find templates -name "*.html")
# Tests that `make test` leaves to `make test-all`, by their markers.
LONG := (slow or browser or alone or week)

test: .venv/dev .venv/static
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/djade --target-version 5.2 --check $(TEMPLATES)
	$(BIN)/biome ci --error-on-warnings static
	$(BIN)/mypy apps toxicmod
	$(BIN)/lint-imports
	PRODUCTION=1 SECRET_KEY=$$($(BIN)/python -c 'import secrets; print(secrets.token_urlsafe(50))') \
		ALLOWED_HOSTS=example.org PUBLIC_URL=https://example.org DATABASE_URL=postgres://user:secret@db.example.org/toxicmod REDIS_URL=redis://redis.example.org \
		$(BIN)/python manage.py check --deploy --fail-level WARNING
	$(BIN)/python manage.py makemigrations --check --dry-run
	$(BIN)/pytest -n 2 --dist loadfile -m "not database and not $(LONG)"
	$(BIN)/python -m toxicmod.testing.servers $(BIN)/pytest -n 2 --dist loadfile -m "database and not $(LONG)"

# Everything that one machine without a cloud can check.
test-all: test test-sqlite test-long test-week test-cloud

# The tests that `make test` runs on PostgreSQL, on SQLite, which is the default.
test-sqlite: .venv/dev .venv/static
	$(BIN)/pytest -n 2 --dist loadfile -m "database and not $(LONG)"

# Tests with browsers, faults and real processes. Tests that measure time run alone.
test-long: .venv/dev .venv/static
	$(BIN)/pytest -n 2 --dist loadfile -m "(slow or browser) and not (alone or week)"
	$(BIN)/python -m toxicmod.testing.servers $(BIN)/pytest -n 2 --dist loadfile -m "database and (slow or browser) and not (alone or week)"
	$(BIN)/pytest -m alone

# A simulated week with every service running.
test-week: .venv/dev .venv/static
	$(BIN)/pytest -m week toxicmod/tests/week

# Terraform's stack and the mirror in DynamoDB, against a local AWS (moto).
test-cloud: .venv/dev .venv/infra
	$(BIN)/pytest -n 2 --dist loadfile toxicmod/tests/infra/test_terraform.py toxicmod/tests/infra/test_mirror_drills.py

# The learning loop, Spark, Terraform, containers, Ansible and the mirror on this machine, without a cloud.
# pytest skips and reports the tests whose programs this machine lacks.
test-infra: .venv/dev .venv/infra .venv/spark
	$(BIN)/pytest toxicmod/tests/infra/test_*.py
	@if [ -x ansible/tests/run ]; then ansible/tests/run; fi

# Reports published vulnerabilities of the pinned packages; fails as well if the package index does not serve them.
# The ignored one has no fix: the timing of python-ecdsa's signatures reveals keys, but checkov signs nothing with it.
AUDITED := requirements.txt requirements-dev.txt apps/classifier/encoder_training/requirements.txt terraform/requirements.txt toxicmod/benchmarks/references/requirements.txt toxicmod/tests/infra/requirements.txt
audit: .venv/dev
	@status=0; for file in $(AUDITED); do echo "$$file"; \
		$(BIN)/pip-audit --strict --progress-spinner off --disable-pip --no-deps --ignore-vuln CVE-2024-23342 -r "$$file" || status=1; done; exit $$status

bench: .venv/dev .venv/static .venv/references
	@test -f "$(JIGSAW_CSV)" || { echo 'Give real comments: make bench JIGSAW_CSV=train.csv.gz (the Jigsaw data)'; exit 1; }
	$(BIN)/python -m toxicmod.benchmarks.classifier $(JIGSAW_CSV)
	$(BIN)/python manage.py bench_quality $(JIGSAW_CSV) --files $(COMMENTS)
	$(BIN)/python manage.py bench_references $(JIGSAW_CSV)
	$(BIN)/python manage.py bench_perspective
	$(BIN)/python manage.py bench_pages
	$(BIN)/python -m toxicmod.testing.servers sh -ec '\
		$(BIN)/python manage.py migrate -v0; $(BIN)/python manage.py install_base_model; \
		$(BIN)/python manage.py install_default_policy; $(BIN)/python manage.py create_roles; \
		$(BIN)/python manage.py seed_benchmark $(JIGSAW_CSV); $(BIN)/python manage.py bench_moderation; \
		$(BIN)/python manage.py bench_monitoring'

# Pins the requirements again. A test compares them with requirements.in and requirements-dev.in.
lock: .venv/dev
	$(UV) compile -q --system-certs --universal --python-version 3.11 --custom-compile-command 'make lock' requirements.in -o requirements.txt
	$(UV) compile -q --system-certs --universal --python-version 3.11 --custom-compile-command 'make lock' requirements-dev.in -c requirements.txt -o requirements-dev.txt
	$(UV) compile -q --system-certs --universal --python-version 3.11 --custom-compile-command 'make lock' terraform/requirements.in -o terraform/requirements.txt

fix: .venv/dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/djade --target-version 5.2 $(TEMPLATES)
	$(BIN)/biome check --write static

clean:
	rm -rf .venv staticfiles .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache

.venv/bin/uv:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed, this is " + sys.version)'
	$(PYTHON) -m venv .venv
	$(BIN)/pip install -q --disable-pip-version-check $$(grep '^uv==' requirements-dev.txt)

# Compile as pip does. Otherwise every start would compile the modules where Python may not write bytecode.
.venv/runtime: export UV_COMPILE_BYTECODE = 1
.venv/runtime: .venv/bin/uv requirements.txt
	$(call INSTALL,requirements.txt)
	@touch $@

.venv/static: .venv/runtime $(shell find static -type f)
	$(BIN)/python manage.py collectstatic --noinput --clear --verbosity 0
	@touch $@

.venv/dev: .venv/runtime requirements-dev.txt
	$(call INSTALL,requirements-dev.txt)
	@touch $@

# Spark is large, so it is installed only for its test.
.venv/spark: .venv/dev toxicmod/tests/infra/requirements.txt
	$(call INSTALL,toxicmod/tests/infra/requirements.txt)
	@touch $@

# The reference implementations have libraries of their own. pip selects a build of torch without CUDA.
.venv/references: .venv/bin/uv toxicmod/benchmarks/references/requirements.txt
	$(PYTHON) -m venv $@
	$@/bin/pip install -q --disable-pip-version-check -r toxicmod/benchmarks/references/requirements.txt
	@touch $@

# The scanner pins older versions of the site's libraries, so it has an environment of its own.
.venv/infra: .venv/bin/uv terraform/requirements.txt
	$(PYTHON) -m venv $@
	$(UV) install -q --system-certs --python $@/bin/python -r terraform/requirements.txt || $@/bin/pip install -q --disable-pip-version-check -r terraform/requirements.txt
	@touch $@
