// SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
/* TC ingress: the whole pipeline, offloads and unresolved neighbours included. */
#include "shim_tc.h"
#include "pipeline.h"

SEC("tc")
int lox_tc(struct __sk_buff *ctx)
{
	return lox_frame(ctx);
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
