// SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
/* XDP: finishes packets of known flows and services, passes everything else unmodified. */
#include "shim_xdp.h"
#include "pipeline.h"

SEC("xdp")
int lox_xdp(struct xdp_md *ctx)
{
	return lox_frame(ctx);
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
