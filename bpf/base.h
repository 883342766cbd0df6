/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/* What every topic stands on: types, helpers, the load-time configuration and the run-time record. */
#ifndef LOX_BASE_H
#define LOX_BASE_H

#include <stdbool.h>
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_endian.h>

#include "abi.h"

struct bpf_map; /* of the kernel, in signatures of callbacks */

#define LOX_INLINE static __always_inline
#define READ_ONCE(x) (*(const volatile typeof(x) *)&(x))
#define WRITE_ONCE(x, v) (*(volatile typeof(x) *)&(x) = (v))
/* Hides a value's origin from the compiler, where merging two loads would break what the verifier knows of it. */
#define OPAQUE(x) asm volatile("" : "+r"(x))
/* Keeps the compiler from moving memory accesses across. */
#define BARRIER() asm volatile("" ::: "memory")

/* BPF_F_MMAPABLE arrays: the daemon reads tables without a system call. */
#define LOX_ARRAY(_name, _value, _flags)                                                                               \
	struct {                                                                                                       \
		__uint(type, BPF_MAP_TYPE_ARRAY);                                                                      \
		__uint(max_entries, 1);                                                                                \
		__type(key, __u32);                                                                                    \
		__type(value, _value);                                                                                 \
		__uint(map_flags, _flags);                                                                             \
	} _name SEC(".maps")

const volatile struct lox_config cfg = {};

/*
 * Is there a flow table for this IP version? A data plane has both. A copy of it that traces a packet has the one it needs,
 * and the verifier, which knows cfg, does not look at what is behind this question for the other.
 */
LOX_INLINE bool lox_serves(const bool v6)
{
	return v6 ? cfg.flow6_mask : cfg.flow4_mask;
}

LOX_ARRAY(runtime, struct lox_runtime, BPF_F_MMAPABLE);

LOX_INLINE struct lox_runtime *lox_runtime(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&runtime, &zero);
}

LOX_INLINE __u32 lox_now(void)
{
	return (__u32)bpf_jiffies64();
}

#endif
