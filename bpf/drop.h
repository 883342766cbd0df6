/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * Reports of dropped packets, while somebody watches: each processor makes one an interval, and some at once. The entry
 * programs make none, so that the plain path stays free of calls: what they drop themselves is counted and not reported.
 * Needs the steps of a hook before it.
 */
#ifndef LOX_DROP_H
#define LOX_DROP_H

#include "verdict.h"

/* Reports that a processor saves up. */
#define LOX_DROP_BURST 64

/* What a processor may still report. */
struct lox_ration {
	__u64 last;
	__u64 saved;
};

/* Written by the daemon: nanoseconds between two reports of a processor; 0: nobody watches. */
LOX_ARRAY(drop_interval, __u32, BPF_F_MMAPABLE);

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct lox_ration);
} drop_rations SEC(".maps");

/* Drops that were not reported while somebody watched. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64);
} drops_lost SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 32768);
} drops SEC(".maps");

/* Token bucket, in nanoseconds: a report costs an interval. */
LOX_INLINE bool lox_may_report(struct lox_ration *ration, __u64 now, __u32 interval)
{
	__u64 saved = ration->saved + (now - ration->last), most = (__u64)interval * LOX_DROP_BURST;

	if (saved > most)
		saved = most;
	ration->last = now;
	ration->saved = saved < interval ? saved : saved - interval;
	return saved >= interval;
}

/* Copy the start of the frame; returns how many bytes. */
LOX_INLINE __u32 lox_copy_head(lox_ctx *ctx, __u8 *head)
{
	void *data = lox_data(ctx), *end = lox_end(ctx);
	__u32 i;

	for (i = 0; i < sizeof(((struct lox_drop *)0)->head) / 2; i++) {
		__be16 *part = data + i * 2;

		if ((void *)(part + 1) > end)
			break;
		((__be16 *)head)[i] = *part;
	}
	return i * 2;
}

__noinline int lox_report_drop(lox_ctx *ctx, __u32 reason, __u32 interval)
{
	__u32 zero = 0;
	struct lox_ration *ration = bpf_map_lookup_elem(&drop_rations, &zero);
	__u64 now = bpf_ktime_get_ns(), *lost = bpf_map_lookup_elem(&drops_lost, &zero);
	struct lox_drop *drop = NULL;

	if (!ration || !lost)
		return 0;
	if (lox_may_report(ration, now, interval))
		drop = bpf_ringbuf_reserve(&drops, sizeof(*drop), 0);
	if (!drop) {
		(*lost)++;
		return 0;
	}
	__builtin_memset(drop, 0, sizeof(*drop));
	drop->at = now;
	drop->ifindex = lox_ifindex(ctx);
	drop->length = lox_frame_length(ctx);
	drop->reason = reason;
	drop->hook = LOX_HOOK_IS_XDP ? LOX_AT_XDP : LOX_HOOK_IS_EGRESS ? LOX_AT_EGRESS : LOX_AT_TC;
	drop->captured = lox_copy_head(ctx, drop->head);
	bpf_ringbuf_submit(drop, 0);
	return 0;
}

/* Drop the packet, off the plain path. */
LOX_INLINE int lox_discard(lox_ctx *ctx, enum lox_reason reason)
{
	__u32 zero = 0;
	__u32 *interval = bpf_map_lookup_elem(&drop_interval, &zero);

	if (interval && *interval)
		lox_report_drop(ctx, reason, *interval);
	return lox_leave(LOX_DROP, reason);
}

#endif
