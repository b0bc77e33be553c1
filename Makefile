# demo   boot a Linux from qcow2 and show what its disk does
# test   everything that CI runs; the last line is `N passed, N failed`
# bench  the figures of the README
# soak   the random tests without end, or for HOURS=N
.PHONY: demo test bench soak build

HOURS ?= 0

build:
	cargo build --release --package spindle

demo:
	@tests/demo

test:
	@tests/run

bench:
	@tests/bench

soak:
	@tests/soak $(HOURS)
