/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/* The one counted exit: every packet leaves a program through it, with a reason. */
#ifndef LOX_VERDICT_H
#define LOX_VERDICT_H

#include "base.h"

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, LOX_REASONS);
	__type(key, __u32);
	__type(value, __u64);
} reasons SEC(".maps");

LOX_INLINE void lox_count(enum lox_reason reason)
{
	__u32 at = reason;
	__u64 *n = bpf_map_lookup_elem(&reasons, &at);

	if (n)
		(*n)++;
}

/* Count `reason` and return `verdict`, the hook's return code for it. */
LOX_INLINE int lox_leave(int verdict, enum lox_reason reason)
{
	lox_count(reason);
	return verdict;
}

/* Is the sender told of a packet that is dropped for this reason? TC does that. */
LOX_INLINE bool lox_is_told(enum lox_reason reason)
{
	return reason == LOX_DROP_TTL || reason == LOX_DROP_NO_ENDPOINT || reason == LOX_DROP_NOT_SYN ||
	       reason == LOX_DROP_TOO_BIG || reason == LOX_DROP_NO_ROUTE;
}

#endif
