# Commands of the checkout; CI calls the same ones. `just` alone lists them; it comes with `pip install -e '.[test]'`.

[private]
default:
    @just --list

# Install the checkout, its tools and its hooks into the environment that is active
setup:
    python -m pip install -e '.[dev]'
    pre-commit install

# Build the kernels again, after a change in ext/
build:
    python setup.py build_ext --inplace

# Tests that start no process (no store, no service, no command) and take less than a second each
test-fast *arguments:
    python -m pytest -m "not server and not slow" {{arguments}}

# All tests, or those that are named
test *arguments:
    python -m pytest {{arguments}}

# Lines that the fast tests reach
coverage:
    python -m pytest -m "not server and not slow" --cov --cov-report=term:skip-covered

# Style and spelling
lint:
    ruff check .
    ruff format --check .
    codespell
    cython-lint ext bandit_serve

# Types, and the stubs beside the kernels that they describe
types:
    mypy
    python -m mypy.stubtest --mypy-config-file pyproject.toml --allowlist ext/stubtest_allowlist.txt \
        $(find bandit_serve -name '_*.pyi' | sed 's/\.pyi$//; s#/#.#g')

# The documents as pages, in site/
docs:
    mkdocs build --strict

# The table of docs/settings.md, after a change in settings.py
settings-table:
    python -m bandit_serve.cli.settings_table docs/settings.md

# The pictures of the documents, but for that of a demo; that of the dashboard needs Chromium
pictures:
    python docs/pictures/regret.py
    python docs/pictures/dashboard.py

# Speed beside other libraries; needs the extra `bench`
bench:
    python benchmarks/policies_table.py
    python benchmarks/models_table.py
    python benchmarks/http_load.py

# The sdist, and the wheel from it, in dist/
package:
    python -m build

# Pinned versions, with hashes, of what the image installs; `just lock --upgrade` takes newer ones
lock *arguments:
    uv pip compile --quiet --universal --python-version 3.11 --extra embedded --generate-hashes --no-annotate \
        --custom-compile-command "just lock" --output-file deploy/requirements.lock {{arguments}} pyproject.toml

# Bill of materials (CycloneDX) of an environment, by default of the one that is active
sbom output="dist/sbom.cdx.json" python=`command -v python`:
    mkdir -p "$(dirname {{output}})"
    {{python}} -c 'import bandit_serve'
    python -m cyclonedx_py environment --pyproject pyproject.toml --output-reproducible --of JSON -o {{output}} {{python}}

# Everything that has to hold, from nothing
ci:
    .ci/run
