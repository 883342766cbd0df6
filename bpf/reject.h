/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * Answers of our own, on TC: a TCP reset or an ICMP error in place of a packet that cannot be forwarded, sent back where
 * it came from. ICMP errors are rate limited like the kernel's (Documentation/networking/ip-sysctl, icmp_ratelimit).
 */
#ifndef LOX_REJECT_H
#define LOX_REJECT_H

#include "payload.h"
#include "rewrite.h"
#include "verdict.h"

#define LOX_TTL 64
#define LOX_ICMP_UNREACHABLE 3
#define LOX_ICMP_NETWORK 0
#define LOX_ICMP_HOST 1
#define LOX_ICMP_PORT 3
#define LOX_ICMP_TOO_BIG 4
#define LOX_ICMP_PROHIBITED 13
#define LOX_ICMP_EXPIRED 11
#define LOX_ICMP6_UNREACHABLE 1
#define LOX_ICMP6_NO_ROUTE 0
#define LOX_ICMP6_PROHIBITED 1
#define LOX_ICMP6_PORT 4
#define LOX_ICMP6_TOO_BIG 2
#define LOX_ICMP6_EXPIRED 3
#define LOX_ICMP_HEADER 8
#define LOX_ICMP_QUOTE4 548  /* RFC 1812 section 4.3.2.3: no more than 576 bytes in all */
#define LOX_ICMP_QUOTE6 1232 /* RFC 4443 section 2.4: no more than 1280 bytes in all */
#define LOX_ICMP_BURST 6
#define LOX_INTERNETWORK_CONTROL 0xc0 /* precedence of ICMP errors (RFC 1812 section 4.3.2.5) */

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 1);
	__type(key, union lox_addr);
	__type(value, struct lox_bucket);
} icmp_peers SEC(".maps");

/* Token bucket in jiffies: one error costs `cost`, at most LOX_ICMP_BURST errors are saved up. */
LOX_INLINE bool lox_take_token(struct lox_bucket *b, __u32 now, __u32 cost, __u32 burst)
{
	__u32 tokens = b->tokens + (now - b->last);

	if (tokens > burst * cost)
		tokens = burst * cost;
	b->last = now;
	b->tokens = tokens < cost ? tokens : tokens - cost;
	return tokens >= cost;
}

/* May an ICMP error go to this address now? */
LOX_INLINE bool lox_may_send(const bool v6, const union lox_addr *addr)
{
	union lox_addr to = {};
	struct lox_runtime *rt = lox_runtime();
	__u32 now = lox_now();
	struct lox_bucket first = { .last = now };
	struct lox_bucket *b;

	if (!rt || !rt->icmp_interval)
		return true;
	if (v6)
		to = *addr;
	else
		to.v4 = addr->v4;
	b = bpf_map_lookup_elem(&icmp_peers, &to);
	if (b)
		return lox_take_token(b, now, rt->icmp_interval, LOX_ICMP_BURST);
	first.tokens = (LOX_ICMP_BURST - 1) * rt->icmp_interval;
	bpf_map_update_elem(&icmp_peers, &to, &first, BPF_ANY);
	return true;
}

LOX_INLINE void lox_swap_macs(struct ethhdr *eth)
{
	__u8 mac[6];

	__builtin_memcpy(mac, eth->h_dest, 6);
	__builtin_memcpy(eth->h_dest, eth->h_source, 6);
	__builtin_memcpy(eth->h_source, mac, 6);
}

LOX_INLINE void lox_write_ip4(struct iphdr *ip, __be32 saddr, __be32 daddr, __u8 proto, __u16 length)
{
	__u64 sum = 0;

	__builtin_memset(ip, 0, sizeof(*ip));
	ip->version = 4;
	ip->ihl = 5;
	ip->tos = proto == IPPROTO_ICMP ? LOX_INTERNETWORK_CONTROL : 0;
	ip->tot_len = bpf_htons(length);
	ip->frag_off = bpf_htons(0x4000);
	ip->ttl = LOX_TTL;
	ip->protocol = proto;
	ip->saddr = saddr;
	ip->daddr = daddr;
	for (int i = 0; i < 5; i++)
		sum += ((__u32 *)ip)[i];
	ip->check = ~lox_csum_fold(sum);
}

LOX_INLINE void lox_write_ip6(struct ipv6hdr *ip, const union lox_addr *saddr, const union lox_addr *daddr, __u8 proto,
			      __u16 length)
{
	__builtin_memset(ip, 0, sizeof(*ip));
	ip->version = 6;
	ip->payload_len = bpf_htons(length);
	ip->nexthdr = proto;
	ip->hop_limit = LOX_TTL;
	__builtin_memcpy(&ip->saddr, saddr, sizeof(*saddr));
	__builtin_memcpy(&ip->daddr, daddr, sizeof(*daddr));
}

/* Sum of the pseudo-header (RFC 9293 section 3.1, RFC 8200 section 8.1) between these addresses. */
LOX_INLINE __u64 lox_pseudo(const bool v6, const union lox_addr *a, const union lox_addr *b, __u32 proto, __u32 length)
{
	__u64 sum = (__u64)bpf_htonl(length) + bpf_htonl(proto);

	return sum + (v6 ? lox_csum_sum128(a) + lox_csum_sum128(b) : (__u64)a->v4 + b->v4);
}

/* Sequence numbers of the reset that answers a segment (RFC 9293 section 3.10.7.1). */
LOX_INLINE void lox_answer_reset(const struct lox_packet *p, struct tcphdr *tcp)
{
	__be32 seq = tcp->seq, ack = tcp->ack_seq;
	__u32 length = p->bytes + LOX_L3 - p->l4 - tcp->doff * 4;

	length += !!(p->tcp_flags & LOX_TCP_SYN) + !!(p->tcp_flags & LOX_TCP_FIN);
	__builtin_memset(tcp, 0, sizeof(*tcp));
	tcp->source = p->tuple.dport;
	tcp->dest = p->tuple.sport;
	tcp->doff = sizeof(*tcp) / 4;
	tcp->rst = 1;
	if (p->tcp_flags & LOX_TCP_ACK) {
		tcp->seq = ack;
	} else {
		tcp->ack = 1;
		tcp->ack_seq = bpf_htonl(bpf_ntohl(seq) + length);
	}
}

/* Does the segment say rightly where its data begin? */
LOX_INLINE bool lox_has_offset(lox_ctx *ctx, const struct lox_packet *p)
{
	struct tcphdr *tcp = lox_data(ctx) + (p->l4 & 0xff);

	if ((void *)(tcp + 1) > lox_end(ctx) || tcp->doff * 4 < sizeof(*tcp))
		return false;
	return p->l4 + tcp->doff * 4 <= LOX_L3 + p->bytes;
}

/*
 * Turn the segment into the reset that answers it. The checksum is built by changes from zero, so that it comes out right
 * whether the packet's checksum is complete or left to the device. Returns 0 or -1.
 */
LOX_INLINE int lox_make_reset(lox_ctx *ctx, const bool v6, const struct lox_packet *p)
{
	const __u32 l4 = LOX_L3 + (v6 ? sizeof(struct ipv6hdr) : sizeof(struct iphdr));
	struct lox_change c = { .v6 = v6, .pseudo_header = true, .check = l4 + 16 };
	struct tcphdr *tcp;
	void *data;

	if (p->tcp_flags & LOX_TCP_RST || !lox_has_offset(ctx, p) || bpf_skb_change_tail(ctx, p->l4 + sizeof(*tcp), 0))
		return -1;
	/* IP options and extension headers are not the answer's. */
	if (p->l4 != l4 && bpf_skb_adjust_room(ctx, (__s32)l4 - p->l4, BPF_ADJ_ROOM_NET, 0))
		return -1;
	if (bpf_skb_pull_data(ctx, l4 + sizeof(*tcp)))
		return -1;
	data = lox_data(ctx);
	tcp = data + l4;
	if ((void *)(tcp + 1) > lox_end(ctx))
		return -1;
	lox_swap_macs(data);
	lox_answer_reset(p, tcp);
	if (v6)
		lox_write_ip6(data + LOX_L3, &p->tuple.daddr, &p->tuple.saddr, IPPROTO_TCP, sizeof(*tcp));
	else
		lox_write_ip4(data + LOX_L3, p->tuple.daddr.v4, p->tuple.saddr.v4, IPPROTO_TCP,
			      sizeof(struct iphdr) + sizeof(*tcp));
	c.addresses = lox_pseudo(v6, &p->tuple.saddr, &p->tuple.daddr, IPPROTO_TCP, sizeof(*tcp));
	for (__u32 i = 0; i < sizeof(*tcp) / 4; i++)
		c.ports += ((__u32 *)tcp)[i];
	return lox_fix_l4(ctx, &c);
}

/* What an ICMP error says. `info` is the second word of its header: the MTU, or 0. */
struct lox_complaint {
	__u8 type;
	__u8 code;
	__u16 pad;
	__be32 info;
};

/* Address of this host on the interface the packet came in by; the packet's destination where there is none. */
LOX_INLINE void lox_own_address(lox_ctx *ctx, const bool v6, const struct lox_packet *p, union lox_addr *own)
{
	__u32 at = lox_ifindex(ctx) & cfg.link_mask;
	struct lox_link *link = bpf_map_lookup_elem(&links, &at);

	*own = p->tuple.daddr;
	if (!link || link->ifindex != lox_ifindex(ctx))
		return;
	if (v6 && (link->addr6.half[0] | link->addr6.half[1]))
		*own = link->addr6;
	else if (!v6 && link->addr4)
		own->v4 = link->addr4;
}

/* Checksum of the ICMP message that starts at `from` and fills the frame. */
LOX_INLINE __u16 lox_icmp_checksum(lox_ctx *ctx, const bool v6, const union lox_addr *saddr,
				   const union lox_addr *daddr, __u32 from, __u32 length)
{
	__u64 sum = lox_csum_rest(ctx, from, length);

	if (v6)
		sum += lox_pseudo(v6, saddr, daddr, IPPROTO_ICMPV6, length);
	return ~lox_csum_fold(sum);
}

/* Put an IP and an ICMP header in front of what is quoted of the packet, and send it back. Returns 0 or -1. */
LOX_INLINE int lox_make_error(lox_ctx *ctx, const bool v6, struct lox_work *w, const union lox_addr *own,
			      const struct lox_complaint *say)
{
	const __u32 room = (v6 ? sizeof(struct ipv6hdr) : sizeof(struct iphdr)) + LOX_ICMP_HEADER;
	const __u32 from = LOX_L3 + room - LOX_ICMP_HEADER;
	__u32 quote = w->p.bytes, most = v6 ? LOX_ICMP_QUOTE6 : LOX_ICMP_QUOTE4;
	union lox_addr *client = &w->p.tuple.saddr;
	struct lox_macs macs;
	struct ethhdr *eth;
	void *data;
	__u8 *icmp;

	if (quote > most)
		quote = most;
	eth = lox_data(ctx);
	if ((void *)(eth + 1) > lox_end(ctx))
		return -1;
	__builtin_memcpy(macs.dmac, eth->h_source, 6);
	__builtin_memcpy(macs.smac, eth->h_dest, 6);
	if (bpf_skb_change_tail(ctx, LOX_L3 + quote, 0) || bpf_skb_change_head(ctx, room, 0) ||
	    bpf_skb_pull_data(ctx, LOX_L3 + room + quote))
		return -1;
	data = lox_data(ctx);
	icmp = data + from;
	if (data + LOX_L3 + room > lox_end(ctx))
		return -1;
	eth = data;
	__builtin_memcpy(eth, &macs, sizeof(macs));
	eth->h_proto = v6 ? bpf_htons(ETH_P_IPV6) : bpf_htons(ETH_P_IP);
	if (v6)
		lox_write_ip6(data + LOX_L3, own, client, IPPROTO_ICMPV6, LOX_ICMP_HEADER + quote);
	else
		lox_write_ip4(data + LOX_L3, own->v4, client->v4, IPPROTO_ICMP, room + quote);
	icmp[0] = say->type;
	icmp[1] = say->code;
	*(__be16 *)(icmp + 2) = 0;
	*(__be32 *)(icmp + 4) = say->info;
	*(__be16 *)(icmp + 2) = lox_icmp_checksum(ctx, v6, own, client, from, LOX_ICMP_HEADER + quote);
	return 0;
}

/*
 * Code for a destination that no way leads to, as the kernel's router says it (RFC 1812 section 5.2.7.1, RFC 4443 section
 * 3.1).
 */
LOX_INLINE __u8 lox_no_way_code(const bool v6, __u32 route)
{
	if (route == LOX_ROUTE_PROHIBITED)
		return v6 ? LOX_ICMP6_PROHIBITED : LOX_ICMP_PROHIBITED;
	if (v6)
		return LOX_ICMP6_NO_ROUTE;
	return route == LOX_ROUTE_UNREACHABLE ? LOX_ICMP_HOST : LOX_ICMP_NETWORK;
}

/* What to say about the packet in hand. */
LOX_INLINE struct lox_complaint lox_complain(const bool v6, const struct lox_work *w)
{
	struct lox_complaint say = { .type = v6 ? LOX_ICMP6_UNREACHABLE : LOX_ICMP_UNREACHABLE };

	if (w->reason == LOX_DROP_TTL) {
		say.type = v6 ? LOX_ICMP6_EXPIRED : LOX_ICMP_EXPIRED;
	} else if (w->reason == LOX_DROP_TOO_BIG) {
		say.type = v6 ? LOX_ICMP6_TOO_BIG : LOX_ICMP_UNREACHABLE;
		say.code = v6 ? 0 : LOX_ICMP_TOO_BIG;
		say.info = bpf_htonl(w->mtu);
	} else if (w->reason == LOX_DROP_NO_ROUTE) {
		say.code = lox_no_way_code(v6, w->way.route);
	} else {
		say.code = v6 ? LOX_ICMP6_PORT : LOX_ICMP_PORT;
	}
	return say;
}

/* Does a router refuse the packet, and not the service it is for? */
LOX_INLINE bool lox_on_the_way(__u32 reason)
{
	return reason == LOX_DROP_TTL || reason == LOX_DROP_TOO_BIG || reason == LOX_DROP_NO_ROUTE;
}

LOX_INLINE int lox_send_back(lox_ctx *ctx, enum lox_reason reason)
{
	return lox_leave(bpf_redirect(lox_ifindex(ctx), 0), reason);
}

/* Answer the packet in hand, which is dropped for w->reason. */
LOX_INLINE int lox_reject(lox_ctx *ctx, const bool v6)
{
	struct lox_work *w = lox_work();
	struct lox_complaint say;
	union lox_addr own;

	if (!lox_serves(v6))
		return lox_leave(LOX_PASS, LOX_PASS_PROTOCOL);
	if (!w)
		return lox_discard(ctx, LOX_DROP_BUSY);
	if (!lox_on_the_way(w->reason) && w->p.tuple.proto == IPPROTO_TCP)
		return lox_make_reset(ctx, v6, &w->p) ? lox_discard(ctx, w->reason) :
							lox_send_back(ctx, LOX_ANSWER_RESET);
	if (!lox_may_send(v6, &w->p.tuple.saddr))
		return lox_discard(ctx, LOX_DROP_RATE);
	say = lox_complain(v6, w);
	own = w->p.tuple.daddr;
	if (lox_on_the_way(w->reason))
		lox_own_address(ctx, v6, &w->p, &own);
	if (lox_make_error(ctx, v6, w, &own, &say))
		return lox_discard(ctx, w->reason);
	return lox_send_back(ctx, w->reason == LOX_DROP_TTL    ? LOX_ANSWER_EXPIRED :
				  w->reason == LOX_DROP_TOO_BIG ? LOX_ANSWER_TOO_BIG :
								  LOX_ANSWER_UNREACHABLE);
}

#endif
