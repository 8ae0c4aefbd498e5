# make              build
# make demo         show the main job, on a private server: some seconds, once it is built
# make picture      draw docs/picture.svg, the picture of the README, anew
# make test         check everything (installs what the tests need, on Debian)
# make test-debian  both of them on RELEASE=trixie or bookworm, in a root of its own; as root
# make test-servers a day of mail on Cyrus, Courier and pymap (downloads them, on Debian)
# make soak         the same with full counts and long waits, make compat and test-servers
# make compat       version 0.1.0 and this one on one state directory (builds 0.1.0)
# make mutants      break the code on purpose: a test must fail each time (wants cargo-mutants)
# make bench        figures, side by side
# make peers        beside what else keeps mail in step: three quarters of an hour; quick=quick for one
# make deny         what comes into the build: licences, versions, advisories (wants cargo-deny)
# make install      PREFIX and DESTDIR as usual; make uninstall takes it back
# make deb          a Debian package, in target/debian
# make lint-deb     and what lintian finds in it (wants lintian)
# make crate        what cargo would publish, in target/package; builds it
# make release      what a release consists of, in target/dist: RELEASING.md

CARGO ?= cargo
PREFIX ?= /usr/local
DESTDIR ?=

bindir = $(DESTDIR)$(PREFIX)/bin
mandir = $(DESTDIR)$(PREFIX)/share/man
datadir = $(DESTDIR)$(PREFIX)/share/mutt-sync
docdir = $(DESTDIR)$(PREFIX)/share/doc/mutt-sync
bashdir = $(DESTDIR)$(PREFIX)/share/bash-completion/completions
fishdir = $(DESTDIR)$(PREFIX)/share/fish/vendor_completions.d
unitdir = $(DESTDIR)$(PREFIX)/lib/systemd/user
# Where Debian's zsh looks, for what packages bring and for what the machine has.
ifeq ($(PREFIX),/usr)
zshdir = $(DESTDIR)$(PREFIX)/share/zsh/vendor-completions
else
zshdir = $(DESTDIR)$(PREFIX)/share/zsh/site-functions
endif

# Most tests wait for servers and clocks, not for a processor.
threads ?= 6

target = $(or $(CARGO_TARGET_DIR),target)
binary = $(target)/release/mutt-sync
# What `mutt-sync --wait` and `--check` become: it alone loads OpenSSL.
network = $(dir $(binary))mutt-sync-net
sources = $(shell find src -name '*.rs') build.rs muttrc.d/10-sync.rc src/messages.txt Cargo.toml Cargo.lock
scripts = $(shell grep -rlI --exclude-dir=target --exclude-dir=.git '^\#!/bin/sh' .)
pages = $(wildcard man/*.[1-8])

all: $(binary)

$(binary): $(sources)
	$(CARGO) build --release --locked --bins
	@touch $@

demo:
	@tests/setup demo
	@echo "building mutt-sync (a minute or two the first time)"
	@$(CARGO) build -q --locked -p mutt-sync -p mutt-sync-rig --bin mutt-sync --bin mutt-sync-net --bin demo
	@$(CARGO) run -q --locked -p mutt-sync-rig --bin demo

picture:
	@tests/setup demo
	@$(CARGO) build -q --locked -p mutt-sync -p mutt-sync-rig --bin mutt-sync --bin mutt-sync-net --bin picture
	@$(CARGO) run -q --locked -p mutt-sync-rig --bin picture -- docs/picture.svg

test: setup
	@$(MAKE) --no-print-directory lint
	RUST_TEST_THREADS=$(threads) $(CARGO) test --workspace --locked --no-fail-fast

test-debian:
	@tests/debian $(RELEASE)

test-servers: setup
	@tests/servers/run

soak: setup
	@tests/soak

compat: setup
	@tests/compat/run

# Hours. What cargo-mutants changes, and which tests it runs: .cargo/mutants.toml.
mutants: setup
	@tests/breakages
	$(CARGO) mutants --output $(target)

# Installs interimap and what peers installs.
bench: setup
	@benches/setup
	$(CARGO) bench --locked -p mutt-sync $(patsubst benches/%.rs,--bench %,$(wildcard benches/*.rs))

# Installs further programs, which only this needs.
peers: setup
	@benches/setup
	$(CARGO) bench --locked -p mutt-sync --bench peers -- $(quick)
	$(CARGO) bench --locked -p mutt-sync --bench bytes

setup:
	@tests/setup test

# With musl the program is checked and not linked, which would need an OpenSSL
# for it.
musl = x86_64-unknown-linux-musl

lint:
	$(CARGO) fmt --all --check
	$(CARGO) fmt --manifest-path fuzz/Cargo.toml --check
	$(CARGO) clippy --workspace --all-targets --test compat --test servers --locked -q -- -D warnings
	RUSTDOCFLAGS='-D warnings' $(CARGO) doc --workspace --no-deps --locked -q
	@if [ -d "$$(rustc --print sysroot)/lib/rustlib/$(musl)" ]; then \
	    set -x; PKG_CONFIG_ALLOW_CROSS=1 CC_$(subst -,_,$(musl))=cc \
	        $(CARGO) check --target $(musl) --lib --bins --locked -q; \
	else echo "lint: this Rust toolchain has no $(musl), so the build with musl is not checked"; fi
	shellcheck $(scripts)
	@for page in $(pages); do echo "mandoc -Tlint $$page"; mandoc -Tlint -Wwarning "$$page" || exit; done

# Not part of `make test`: cargo-deny takes minutes to compile, and advisories
# come from the net.
deny:
	$(CARGO) deny --locked check bans licenses sources
	$(CARGO) deny --locked check advisories

# Builds only what is missing or old, so that root needs no Rust toolchain for
# `make && sudo make install`.
install: $(binary)
	install -d $(bindir)
	install -m 755 $(binary) $(network) $(bindir)/
	@set -e; for page in $(pages); do \
	    section=$${page##*.}; install -d $(mandir)/man$$section; \
	    install -m 644 "$$page" $(mandir)/man$$section/; done
	@set -e; for file in completions/*; do case $$file in \
	    *.bash) install -D -m 644 "$$file" $(bashdir)/mutt-sync ;; \
	    completions/_*) install -D -m 644 "$$file" $(zshdir)/_mutt-sync ;; \
	    *.fish) install -D -m 644 "$$file" $(fishdir)/mutt-sync.fish ;; esac; done
	@set -e; find muttrc.d -type f | while read -r file; do \
	    install -D -m 644 "$$file" "$(datadir)/$$file"; done
	@set -e; for file in README.md docs/picture.svg CHANGELOG.md LICENSE*; do if [ -f "$$file" ]; then \
	    install -D -m 644 "$$file" "$(docdir)/$$file"; fi; done
	@set -e; if [ -d contrib ]; then find contrib -type f | while read -r file; do \
	    mode=644; if [ -x "$$file" ]; then mode=755; fi; \
	    case $$file in \
	    contrib/systemd/*.service|contrib/systemd/*.timer|contrib/systemd/*.path) \
	        install -D -m 644 "$$file" "$(unitdir)/$${file##*/}" ;; \
	    contrib/hooks/*) install -D -m $$mode "$$file" "$(datadir)/$${file#contrib/}" ;; \
	    *) install -D -m $$mode "$$file" "$(docdir)/examples/$${file#contrib/}" ;; esac; done; fi

uninstall:
	rm -f $(bindir)/mutt-sync $(bindir)/mutt-sync-net $(bashdir)/mutt-sync $(zshdir)/_mutt-sync $(fishdir)/mutt-sync.fish
	@for page in $(pages); do rm -f "$(mandir)/man$${page##*.}/$${page##*/}"; done
	@for unit in contrib/systemd/*; do if [ -f "$$unit" ]; then \
	    rm -f "$(unitdir)/$${unit##*/}"; fi; done
	rm -rf $(datadir) $(docdir)

deb: $(binary)
	@packaging/debian/build

lint-deb: deb
	lintian --allow-root --fail-on error,warning "$$(ls -t target/debian/*.deb | head -n 1)"

crate:
	$(CARGO) package --locked -p mutt-sync

# Builds also what make takes for new: the programs say from which commit they are.
release:
	$(CARGO) build --release --locked --bins
	@packaging/release

.PHONY: all demo picture test test-debian test-servers soak compat mutants bench peers setup lint deny install uninstall deb lint-deb crate release
