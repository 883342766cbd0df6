/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * Next hops: where a rewritten packet goes, shared by all flows that go there.
 *
 * The kernel's FIB and neighbour table are the truth. A flow keeps the index of a next hop and the generation it was
 * resolved in; netlink events raise the generation, and the flow's next packet resolves again. So an entry that was
 * not resolved in the current generation has no user left and may be overwritten.
 */
#ifndef LOX_NEXT_HOP_H
#define LOX_NEXT_HOP_H

#include "flow.h"

#define LOX_AF_INET 2
#define LOX_AF_INET6 10
#define LOX_HOP_WINDOW 8

LOX_ARRAY(next_hops, struct lox_next_hop, BPF_F_MMAPABLE);
LOX_ARRAY(links, struct lox_link, BPF_F_MMAPABLE);

enum lox_route {
	LOX_ROUTE_READY,
	LOX_ROUTE_NEIGHBOUR,
	LOX_ROUTE_LOCAL,    /* the kernel's affair: for this host, or to be fragmented */
	LOX_ROUTE_LOOPBACK, /* the same for a packet from an address of ours, which the kernel takes from the loopback alone */
	/* No way. All but the black hole tell the sender. */
	LOX_ROUTE_NONE,
	LOX_ROUTE_UNREACHABLE,
	LOX_ROUTE_PROHIBITED,
	LOX_ROUTE_BLACK_HOLE,
};

LOX_INLINE __u32 lox_peer_of(__u32 ifindex)
{
	__u32 at = ifindex & cfg.link_mask;
	struct lox_link *link = bpf_map_lookup_elem(&links, &at);

	return link && link->ifindex == ifindex && cfg.redirect_peer ? link->peer : 0;
}

/* Six bytes at even addresses. */
LOX_INLINE bool lox_same_mac(const void *a, const void *b)
{
	const __u16 *x = a, *y = b;

	return x[0] == y[0] && x[1] == y[1] && x[2] == y[2];
}

/* What the FIB is asked about: with a length it answers with the MTU, in the same member, but only when the way is ready. */
#define LOX_ASKED_LENGTH 1

/*
 * Before Linux 5.12 it does not. On TC it then says of what is too large for the device that it must be fragmented, whatever
 * it was asked, and the answer is whole all the same.
 */
#ifndef LOX_LEGACY
#define LOX_FIB_ANSWER(_answer) (_answer)
#else
#define LOX_FIB_ANSWER(_answer) ((_answer) == BPF_FIB_LKUP_RET_FRAG_NEEDED ? BPF_FIB_LKUP_RET_SUCCESS : (_answer))
#endif

/* The FIB's answer, else the size of the device; no limit where neither is known. */
LOX_INLINE __u32 lox_mtu_of(const struct bpf_fib_lookup *fib)
{
	__u32 at = fib->ifindex & cfg.link_mask;
	struct lox_link *link;

	if (fib->mtu_result > LOX_ASKED_LENGTH)
		return fib->mtu_result;
	link = bpf_map_lookup_elem(&links, &at);
	return link && link->ifindex == fib->ifindex && link->mtu ? link->mtu : 0xffff;
}

LOX_INLINE bool lox_same_hop(const struct lox_next_hop *hop, const struct bpf_fib_lookup *fib)
{
	return hop->ifindex == fib->ifindex && hop->mtu == lox_mtu_of(fib) &&
	       lox_same_mac(hop->dmac, fib->dmac) && lox_same_mac(hop->smac, fib->smac);
}

LOX_INLINE bool lox_take_hop(struct lox_next_hop *hop, __u32 word, const struct bpf_fib_lookup *fib, __u32 generation)
{
	__u32 claimed = ((word & ~LOX_SLOT_MASK) + LOX_SLOT_CLAIM) | LOX_SLOT_CLAIMED;

	if (!lox_swap(&hop->word, word, claimed))
		return false;
	hop->ifindex = fib->ifindex;
	hop->generation = generation;
	hop->peer = lox_peer_of(fib->ifindex);
	hop->mtu = lox_mtu_of(fib);
	__builtin_memcpy(hop->dmac, fib->dmac, 6);
	__builtin_memcpy(hop->smac, fib->smac, 6);
	lox_store(&hop->word, (claimed & ~LOX_SLOT_MASK) | LOX_SLOT_LIVE);
	return true;
}

/* Index of the entry for this answer of the FIB; 0 when every candidate is in use. */
LOX_INLINE __u32 lox_hop_index(const struct bpf_fib_lookup *fib, __u32 generation)
{
	__u32 mac = fib->dmac[2] << 24 | fib->dmac[3] << 16 | fib->dmac[4] << 8 | fib->dmac[5];
	__u32 hash = (mac * 0x9e3779b1U ^ fib->ifindex * 0x85ebca77U) >> 7;

	for (__u32 i = 0; i < LOX_HOP_WINDOW; i++) {
		__u32 at = (hash + i) & cfg.next_hop_mask;
		struct lox_next_hop *hop = bpf_map_lookup_elem(&next_hops, &at);
		__u32 word;

		if (!hop || !at)
			continue;
		word = READ_ONCE(hop->word);
		if ((word & LOX_SLOT_MASK) == LOX_SLOT_LIVE && lox_same_hop(hop, fib)) {
			hop->generation = generation;
			return at;
		}
		if ((word & LOX_SLOT_MASK) == LOX_SLOT_CLAIMED ||
		    ((word & LOX_SLOT_MASK) == LOX_SLOT_LIVE && hop->generation == generation))
			continue;
		if (lox_take_hop(hop, word, fib, generation))
			return at;
	}
	return 0;
}

/* Ask the FIB for the way to `daddr`. Without a neighbour, fib's destination becomes the gateway. */
LOX_INLINE enum lox_route lox_route(void *ctx, const bool v6, __u32 ifindex, const union lox_addr *saddr,
				    const union lox_addr *daddr, __u32 proto, struct bpf_fib_lookup *fib)
{
	long answer;

	__builtin_memset(fib, 0, sizeof(*fib));
	fib->ifindex = ifindex;
	fib->l4_protocol = proto;
	fib->tot_len = LOX_ASKED_LENGTH;
	fib->family = v6 ? LOX_AF_INET6 : LOX_AF_INET;
	if (v6) {
		__builtin_memcpy(fib->ipv6_src, saddr, sizeof(*saddr));
		__builtin_memcpy(fib->ipv6_dst, daddr, sizeof(*daddr));
	} else {
		fib->ipv4_src = saddr->v4;
		fib->ipv4_dst = daddr->v4;
	}
	answer = bpf_fib_lookup(ctx, fib, sizeof(*fib), 0);
	switch (LOX_FIB_ANSWER(answer)) {
	case BPF_FIB_LKUP_RET_SUCCESS:
		return LOX_ROUTE_READY;
	case BPF_FIB_LKUP_RET_NO_NEIGH:
		return LOX_ROUTE_NEIGHBOUR;
	case BPF_FIB_LKUP_RET_NOT_FWDED:
		return LOX_ROUTE_LOCAL;
	case BPF_FIB_LKUP_RET_UNREACHABLE:
		return LOX_ROUTE_UNREACHABLE;
	case BPF_FIB_LKUP_RET_PROHIBIT:
		return LOX_ROUTE_PROHIBITED;
	default:
		return LOX_ROUTE_BLACK_HOLE;
	}
}

#endif
