/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/* The slow path's record of the packet in hand: one a CPU, since its parts together would not fit the stack. */
#ifndef LOX_WORK_H
#define LOX_WORK_H

#include "insert.h"
#include "next_hop.h"

/* In lox_rewrite.flags: the kernel forwards the packet, and counts the hop. */
#define LOX_KEEP_TTL 0x100

/* What a packet of a flow becomes. */
struct lox_rewrite {
	union lox_addr saddr;
	union lox_addr daddr;
	__be16 sport;
	__be16 dport;
	__u32 flags; /* enum lox_flow_flags, LOX_KEEP_TTL */
};

struct lox_macs {
	__u8 dmac[6];
	__u8 smac[6];
};

/* Where a packet goes: the MACs to write and the device, or what is missing. */
struct lox_way {
	struct lox_macs macs;
	__u32 ifindex;
	__u32 peer;
	__u32 mtu;
	__u32 route; /* enum lox_route */
};

/* Why nothing can go this way; 0 where it can. */
LOX_INLINE int lox_no_way(const struct lox_way *way)
{
	if (way->route < LOX_ROUTE_NONE)
		return 0;
	return way->route == LOX_ROUTE_BLACK_HOLE ? LOX_DROP_BLACK_HOLE : LOX_DROP_NO_ROUTE;
}

struct lox_work {
	__u32 rule;   /* of the packet's service, if both tables have been searched in vain; else 0 */
	__u32 reason; /* why the packet is refused */
	__u32 mtu;    /* of the next hop, when that is the reason */
	__u32 fragments; /* enum lox_fragments: is it a first one? */
	__u32 payload;   /* TCP: bytes of data */
	__u32 scale;     /* TCP: LOX_SCALE_OFFERED and the window scale of a SYN with that option, else 0 */
	struct lox_packet p;
	struct lox_insert in;
	struct lox_tuple reverse; /* key of the other direction */
	struct lox_rewrite rw;
	struct lox_way way;
	struct bpf_fib_lookup fib;
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct lox_work);
} work SEC(".maps");

LOX_INLINE struct lox_work *lox_work(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&work, &zero);
}

#endif
