/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/* Where a packet goes from the TC entry program: steps reached by tail call, and what becomes of a packet that is refused. */
#ifndef LOX_STEPS_H
#define LOX_STEPS_H

#include "shim_tc.h"
#include "work.h"

/* Do packets come from this host's own stack here? */
enum { LOX_HOOK_IS_EGRESS = 0 };

#include "drop.h"

/* Programs that go on where the entry program ends. */
enum {
	LOX_STEP_SLOW4,
	LOX_STEP_SLOW6,
	LOX_STEP_REJECT4,
	LOX_STEP_REJECT6,
	LOX_STEP_ICMP4,
	LOX_STEP_ICMP6,
	LOX_STEP_FRAGMENT4,
	LOX_STEP_FRAGMENT6,
	LOX_STEP_AGAIN,
	LOX_STEPS_COUNT,
};

int lox_tc(lox_ctx *ctx);
int lox_tc_slow4(lox_ctx *ctx);
int lox_tc_slow6(lox_ctx *ctx);
int lox_tc_reject4(lox_ctx *ctx);
int lox_tc_reject6(lox_ctx *ctx);
int lox_tc_icmp4(lox_ctx *ctx);
int lox_tc_icmp6(lox_ctx *ctx);
int lox_tc_fragment4(lox_ctx *ctx);
int lox_tc_fragment6(lox_ctx *ctx);

struct {
	__uint(type, BPF_MAP_TYPE_PROG_ARRAY);
	__uint(max_entries, LOX_STEPS_COUNT);
	__uint(key_size, sizeof(__u32));
	__array(values, int(lox_ctx *));
} tc_steps SEC(".maps") = {
	.values = {
		[LOX_STEP_SLOW4] = (void *)&lox_tc_slow4,
		[LOX_STEP_SLOW6] = (void *)&lox_tc_slow6,
		[LOX_STEP_REJECT4] = (void *)&lox_tc_reject4,
		[LOX_STEP_REJECT6] = (void *)&lox_tc_reject6,
		[LOX_STEP_ICMP4] = (void *)&lox_tc_icmp4,
		[LOX_STEP_ICMP6] = (void *)&lox_tc_icmp6,
		[LOX_STEP_FRAGMENT4] = (void *)&lox_tc_fragment4,
		[LOX_STEP_FRAGMENT6] = (void *)&lox_tc_fragment6,
		[LOX_STEP_AGAIN] = (void *)&lox_tc,
	},
};

#define LOX_STEPS tc_steps

/* Drop the packet in hand (lox_work), and answer it where that is due. */
LOX_INLINE int lox_refuse(lox_ctx *ctx, const bool v6, enum lox_reason reason)
{
	struct lox_work *w = lox_work();

	if (w && lox_is_told(reason)) {
		w->reason = reason;
		bpf_tail_call(ctx, &LOX_STEPS, v6 ? LOX_STEP_REJECT6 : LOX_STEP_REJECT4);
	}
	return lox_discard(ctx, reason);
}

/*
 * ICMP errors and fragments have programs of their own. Of a packet that could not be understood, options or extension
 * headers may be out of direct reach: once they are not, it starts anew. Everything else with a reason to pass goes on.
 */
LOX_INLINE int lox_special(lox_ctx *ctx, const bool v6, enum lox_reason reason)
{
	if (reason == LOX_PASS_ICMP_ERROR)
		bpf_tail_call(ctx, &LOX_STEPS, v6 ? LOX_STEP_ICMP6 : LOX_STEP_ICMP4);
	if (reason == LOX_PASS_FRAGMENT)
		bpf_tail_call(ctx, &LOX_STEPS, v6 ? LOX_STEP_FRAGMENT6 : LOX_STEP_FRAGMENT4);
	if ((reason == LOX_PASS_MALFORMED || (v6 && reason == LOX_PASS_PROTOCOL)) && lox_reach(ctx, LOX_REACH))
		bpf_tail_call(ctx, &LOX_STEPS, LOX_STEP_AGAIN);
	return lox_leave(LOX_PASS, reason);
}

#endif
