// SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
/* The xdp pipeline and an empty program, each behind the same restored packet. */
#include "shim_xdp.h"
#include "pipeline.h"
#include "bench.h"

SEC("xdp")
int bench4(struct xdp_md *ctx)
{
	return lox_bench_restore(lox_data(ctx), lox_end(ctx), false) ? LOX_DROP : lox_frame(ctx);
}

SEC("xdp")
int bench6(struct xdp_md *ctx)
{
	return lox_bench_restore(lox_data(ctx), lox_end(ctx), true) ? LOX_DROP : lox_frame(ctx);
}

SEC("xdp")
int empty4(struct xdp_md *ctx)
{
	return lox_bench_restore(lox_data(ctx), lox_end(ctx), false) ? LOX_DROP : LOX_PASS;
}

SEC("xdp")
int empty6(struct xdp_md *ctx)
{
	return lox_bench_restore(lox_data(ctx), lox_end(ctx), true) ? LOX_DROP : LOX_PASS;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
