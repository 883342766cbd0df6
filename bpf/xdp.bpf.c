// SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
/* XDP: finishes packets of known flows and services, passes everything else unmodified. */
#include "steps_xdp.h"
#include "pipeline.h"

SEC("xdp")
int lox_xdp(struct xdp_md *ctx)
{
	return lox_frame(ctx);
}

SEC("xdp")
int lox_xdp_slow4(struct xdp_md *ctx)
{
	return lox_slow_frame(ctx, false);
}

SEC("xdp")
int lox_xdp_slow6(struct xdp_md *ctx)
{
	return lox_slow_frame(ctx, true);
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
