# The chores of this repository, each named once. `just` lists them; every line also works without just.

# List the chores
default:
    @just --list

# Build the program
build:
    cargo build --release --locked

# Install what the tests need, and run them
test *arguments:
    tests/run {{arguments}}

# Build upstream's own programs with Go, and run the second suite against them
test-upstream *arguments:
    tests/upstream/run {{arguments}}

# All checks, as CI runs them
ci:
    .ci/run

# Format the source
fmt:
    cargo fmt

# Lint everything; warnings are errors
lint:
    cargo clippy --all-targets --locked -- -D warnings

# Build the library's documentation
doc:
    cargo doc --no-deps --locked

# Check licences, origins and versions of the dependencies
dependencies:
    .ci/dependencies

# Audit the snapshot of the README
demo:
    cargo run --release --locked -- audit testdata/kubeadm/snapshot.db -c testdata/kubeadm/encryption-config.yaml --fail-on none

# Measure against etcdutl; the data (2.5 GB) is made in the folder where it is missing
bench folder="target/bench" *arguments:
    benches/run {{folder}} {{arguments}}
