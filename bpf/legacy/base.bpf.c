// SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
/*
 * base.bpf.c for kernels without programs for system calls (Linux 5.14): the daemon's arguments are the packet, and so are
 * the answers.
 */
#include "../event.h"
#include "../fold.h"
#include "../service.h"

/* Where to go on summing. */
struct lox_part {
	__u32 v6;
	__u32 half;
	__u32 at;
	__u32 pad;
};

LOX_INLINE __u32 lox_fold_part(const bool v6, const enum lox_table table, __u32 at)
{
	__u32 mask = lox_mask(v6, table), left = mask + 1 - at;

	if (at > mask)
		return 0;
	lox_fold_slots(v6, table, at, left < LOX_LOOP_ROUNDS ? left : LOX_LOOP_ROUNDS);
	return left > LOX_LOOP_ROUNDS ? at + LOX_LOOP_ROUNDS : 0;
}

/* Add the traffic of some slots to live_traffic, which the daemon has cleared. Returns the next one, 0 at the end. */
SEC("tc")
int lox_fold_counters(struct __sk_buff *ctx)
{
	struct lox_part *part = (void *)(long)ctx->data;

	if ((void *)(part + 1) > (void *)(long)ctx->data_end)
		return 0;
	if (part->half)
		return part->v6 ? lox_fold_part(true, LOX_HALF, part->at) : lox_fold_part(false, LOX_HALF, part->at);
	return part->v6 ? lox_fold_part(true, LOX_MAIN, part->at) : lox_fold_part(false, LOX_MAIN, part->at);
}

struct lox_clock {
	__u64 jiffies;
	__u64 nanoseconds;
};

SEC("tc")
int lox_read_clock(struct __sk_buff *ctx)
{
	struct lox_clock *clock = (void *)(long)ctx->data;

	if ((void *)(clock + 1) > (void *)(long)ctx->data_end)
		return 0;
	clock->jiffies = bpf_jiffies64();
	clock->nanoseconds = bpf_ktime_get_ns();
	return 0;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
