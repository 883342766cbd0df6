/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/* Where a packet goes from the egress program: steps reached by tail call. What is no reply of a flow goes on as it is. */
#ifndef LOX_STEPS_H
#define LOX_STEPS_H

#include "shim_tc.h"
#include "work.h"

/* Do packets come from this host's own stack here? */
enum { LOX_HOOK_IS_EGRESS = 1 };

#include "drop.h"

/* Programs that go on where the entry program ends. */
enum {
	LOX_STEP_SLOW4,
	LOX_STEP_SLOW6,
	LOX_STEP_ICMP4,
	LOX_STEP_ICMP6,
	LOX_STEP_FRAGMENT4,
	LOX_STEP_FRAGMENT6,
	LOX_STEPS_COUNT,
};

int lox_egress_slow4(lox_ctx *ctx);
int lox_egress_slow6(lox_ctx *ctx);
int lox_egress_icmp4(lox_ctx *ctx);
int lox_egress_icmp6(lox_ctx *ctx);
int lox_egress_fragment4(lox_ctx *ctx);
int lox_egress_fragment6(lox_ctx *ctx);

struct {
	__uint(type, BPF_MAP_TYPE_PROG_ARRAY);
	__uint(max_entries, LOX_STEPS_COUNT);
	__uint(key_size, sizeof(__u32));
	__array(values, int(lox_ctx *));
} egress_steps SEC(".maps") = {
	.values = {
		[LOX_STEP_SLOW4] = (void *)&lox_egress_slow4,
		[LOX_STEP_SLOW6] = (void *)&lox_egress_slow6,
		[LOX_STEP_ICMP4] = (void *)&lox_egress_icmp4,
		[LOX_STEP_ICMP6] = (void *)&lox_egress_icmp6,
		[LOX_STEP_FRAGMENT4] = (void *)&lox_egress_fragment4,
		[LOX_STEP_FRAGMENT6] = (void *)&lox_egress_fragment6,
	},
};

#define LOX_STEPS egress_steps

/* Nobody is answered: the sender is this host. */
LOX_INLINE int lox_refuse(lox_ctx *ctx, const bool v6, enum lox_reason reason)
{
	return reason <= LOX_PASS_LAST ? lox_leave(LOX_PASS, reason) : lox_discard(ctx, reason);
}

/* ICMP errors and fragments have programs of their own. Everything else is not the load balancer's, and not counted. */
LOX_INLINE int lox_special(lox_ctx *ctx, const bool v6, enum lox_reason reason)
{
	if (reason == LOX_PASS_ICMP_ERROR)
		bpf_tail_call(ctx, &LOX_STEPS, v6 ? LOX_STEP_ICMP6 : LOX_STEP_ICMP4);
	if (reason == LOX_PASS_FRAGMENT)
		bpf_tail_call(ctx, &LOX_STEPS, v6 ? LOX_STEP_FRAGMENT6 : LOX_STEP_FRAGMENT4);
	return LOX_PASS;
}

#endif
