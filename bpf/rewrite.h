/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/* Writing the translated addresses, ports, TTL and checksums into a packet. Needs a shim before it. */
#ifndef LOX_REWRITE_H
#define LOX_REWRITE_H

#include "work.h"

/* Copy the rewrite out of a slot; valid if the slot still holds the flow afterwards. */
LOX_INLINE void lox_copy(const bool v6, const struct lox_flow *f, struct lox_rewrite *rw)
{
	if (v6) {
		rw->saddr = ((const struct lox_flow6 *)f)->new_saddr;
		rw->daddr = ((const struct lox_flow6 *)f)->new_daddr;
	} else {
		rw->saddr.v4 = ((const struct lox_flow4 *)f)->new_saddr;
		rw->daddr.v4 = ((const struct lox_flow4 *)f)->new_daddr;
	}
	rw->sport = f->new_sport;
	rw->dport = f->new_dport;
	rw->flags = f->flags;
}

/* Write the IPv4 header; returns the change of the addresses. */
LOX_INLINE __u64 lox_write4(struct iphdr *ip, const struct lox_rewrite *rw)
{
	__u64 diff = lox_csum_diff32(ip->saddr, rw->saddr.v4) + lox_csum_diff32(ip->daddr, rw->daddr.v4), hop = 0;

	ip->saddr = rw->saddr.v4;
	ip->daddr = rw->daddr.v4;
	if (!(rw->flags & (LOX_FLOW_DIRECT | LOX_KEEP_TTL))) {
		ip->ttl--;
		hop = lox_csum_diff16(bpf_htons(0x0100), 0);
	}
	ip->check = lox_csum_apply(ip->check, diff + hop);
	return diff;
}

/* Write the IPv6 header; returns the change of the addresses. */
LOX_INLINE __u64 lox_write6(struct ipv6hdr *ip, const struct lox_rewrite *rw)
{
	__u64 diff = 0;

	if (rw->flags & (LOX_FLOW_REPLY | LOX_FLOW_SOURCE)) {
		diff += lox_csum_diff128((void *)&ip->saddr, &rw->saddr);
		__builtin_memcpy(&ip->saddr, &rw->saddr, sizeof(rw->saddr));
	}
	if (!(rw->flags & LOX_FLOW_REPLY) || rw->flags & LOX_FLOW_SOURCE) {
		diff += lox_csum_diff128((void *)&ip->daddr, &rw->daddr);
		__builtin_memcpy(&ip->daddr, &rw->daddr, sizeof(rw->daddr));
	}
	if (!(rw->flags & (LOX_FLOW_DIRECT | LOX_KEEP_TTL)))
		ip->hop_limit--;
	return diff;
}

/* Write ports or the echo identifier at `l4`; fills the change and the place of the checksum. */
LOX_INLINE void lox_write_ports(__be16 *l4, const struct lox_packet *p, const struct lox_rewrite *rw,
				struct lox_change *c)
{
	c->pseudo_header = p->tuple.proto != IPPROTO_ICMP;
	c->zero_means_none = p->tuple.proto == IPPROTO_UDP;
	if (p->tuple.proto == IPPROTO_TCP || p->tuple.proto == IPPROTO_UDP) {
		if (l4[0] != rw->sport || l4[1] != rw->dport)
			c->ports = lox_csum_diff16(l4[0], rw->sport) + lox_csum_diff16(l4[1], rw->dport);
		l4[0] = rw->sport;
		l4[1] = rw->dport;
		c->check = p->l4 + (p->tuple.proto == IPPROTO_TCP ? 16 : 6);
	} else {
		__be16 id = p->echo_reply ? rw->dport : rw->sport;

		if (l4[2] != id)
			c->ports = lox_csum_diff16(l4[2], id);
		l4[2] = id;
		c->check = p->l4 + 2;
	}
}

/* Rewrite the packet in place, MACs too when given. Returns 0, or -1 when the packet cannot be written. */
LOX_INLINE int lox_rewrite(lox_ctx *ctx, const bool v6, const struct lox_packet *p, const struct lox_rewrite *rw,
			   const struct lox_macs *macs)
{
	struct lox_change c = { .v6 = v6 };
	void *data, *end, *l4;
	struct ethhdr *eth;

	lox_before_rewrite(ctx, v6, p);
	eth = data = lox_data(ctx);
	end = lox_end(ctx);
	l4 = data + (p->l4 & 0xff);
	if (data + LOX_L3 + (v6 ? sizeof(struct ipv6hdr) : sizeof(struct iphdr)) > end || l4 + 8 > end)
		return -1;
	if (macs)
		__builtin_memcpy(eth, macs, sizeof(*macs));
	c.addresses = v6 ? lox_write6(data + LOX_L3, rw) : lox_write4(data + LOX_L3, rw);
	lox_write_ports(l4, p, rw, &c);
	if (!c.pseudo_header)
		c.addresses = 0;
	return lox_fix_l4(ctx, &c);
}

#endif
