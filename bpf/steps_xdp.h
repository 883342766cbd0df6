/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/* Where a packet goes from the XDP entry program: steps reached by tail call, and what becomes of a packet that is refused. */
#ifndef LOX_STEPS_H
#define LOX_STEPS_H

#include "shim_xdp.h"
#include "work.h"

/* Do packets come from this host's own stack here? */
enum { LOX_HOOK_IS_EGRESS = 0 };

#include "drop.h"

/* Programs that go on where the entry program ends. */
enum { LOX_STEP_SLOW4, LOX_STEP_SLOW6, LOX_STEPS_COUNT };

int lox_xdp_slow4(lox_ctx *ctx);
int lox_xdp_slow6(lox_ctx *ctx);

struct {
	__uint(type, BPF_MAP_TYPE_PROG_ARRAY);
	__uint(max_entries, LOX_STEPS_COUNT);
	__uint(key_size, sizeof(__u32));
	__array(values, int(lox_ctx *));
} xdp_steps SEC(".maps") = {
	.values = {
		[LOX_STEP_SLOW4] = (void *)&lox_xdp_slow4,
		[LOX_STEP_SLOW6] = (void *)&lox_xdp_slow6,
	},
};

#define LOX_STEPS xdp_steps

/* Answers and everything that needs more than a rewrite are the TC program's: pass it the packet as it came. */
LOX_INLINE int lox_refuse(lox_ctx *ctx, const bool v6, enum lox_reason reason)
{
	return lox_is_told(reason) ? lox_leave(LOX_PASS, LOX_PASS_TO_TC) : lox_discard(ctx, reason);
}

/* ICMP errors and fragments, too. */
LOX_INLINE int lox_special(lox_ctx *ctx, const bool v6, enum lox_reason reason)
{
	return lox_leave(LOX_PASS, reason);
}

#endif
