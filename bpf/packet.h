/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/* What the pipeline knows of a packet, and the parsers that find it out. */
#ifndef LOX_PACKET_H
#define LOX_PACKET_H

#include <linux/tcp.h>
#include <linux/udp.h>

#include "base.h"

#define LOX_TCP_FIN 0x01
#define LOX_TCP_SYN 0x02
#define LOX_TCP_RST 0x04
#define LOX_TCP_ACK 0x10
/* ICMP types; linux/icmp.h pulls in the C library. */
#define LOX_ICMP_ECHO_REPLY 0
#define LOX_ICMP_ECHO 8
#define LOX_ICMP6_ECHO 128
#define LOX_ICMP6_ECHO_REPLY 129
#define LOX_L3 ETH_HLEN
#define LOX_IP_DF 0x4000
#define LOX_IP_FRAGMENT 0x3fff /* more-fragments bit and offset of iphdr.frag_off (RFC 791 section 3.1) */

/* One direction of a flow. For ICMP echo the identifier stands in for the requester's port, 0 for the responder's. */
struct lox_tuple {
	union lox_addr saddr;
	union lox_addr daddr;
	__be16 sport;
	__be16 dport;
	__u32 proto;
};

struct lox_packet {
	struct lox_tuple tuple;
	__u32 bytes; /* from the IP header on */
	__be32 seq;  /* TCP */
	__be32 ack;
	__be16 window;
	__u16 l4; /* offset of the transport header */
	__u8 tcp_flags;
	__u8 ttl;
	__u8 echo_reply;
	__u8 df; /* IPv4: do not fragment */
};

/* Ports of the two echo directions differ, so that a reply's tuple is the request's reversed (RFC 792, RFC 4443). */
LOX_INLINE void lox_echo_ports(struct lox_packet *p, __be16 id, bool reply)
{
	p->echo_reply = reply;
	p->tuple.sport = reply ? 0 : id;
	p->tuple.dport = reply ? id : 0;
}

/* Destination unreachable, time exceeded, parameter problem (RFC 792). */
LOX_INLINE bool lox_is_error4(__u8 type)
{
	return type == 3 || type == 11 || type == 12;
}

/* The ICMPv6 errors (RFC 4443 section 2.1). */
LOX_INLINE bool lox_is_error6(__u8 type)
{
	return type >= 1 && type <= 4;
}

/* Read ports (or the echo identifier) from the transport header at data + p->l4. Returns 0 or the reason to pass. */
LOX_INLINE int lox_parse_l4(void *data, void *end, struct lox_packet *p)
{
	void *l4 = data + (p->l4 & 0xff);
	__be16 *ports = l4;

	p->tcp_flags = 0;
	p->echo_reply = 0;
	if (l4 + 8 > end)
		return LOX_PASS_MALFORMED;
	switch (p->tuple.proto) {
	case IPPROTO_TCP:
		if (l4 + sizeof(struct tcphdr) > end)
			return LOX_PASS_MALFORMED;
		p->seq = ((struct tcphdr *)l4)->seq;
		p->ack = ((struct tcphdr *)l4)->ack_seq;
		p->window = ((struct tcphdr *)l4)->window;
		p->tcp_flags = ((__u8 *)l4)[13];
		/* fallthrough */
	case IPPROTO_UDP:
		p->tuple.sport = ports[0];
		p->tuple.dport = ports[1];
		return 0;
	case IPPROTO_ICMP:
		if (lox_is_error4(*(__u8 *)l4))
			return LOX_PASS_ICMP_ERROR;
		if (((__u8 *)l4)[0] != LOX_ICMP_ECHO && ((__u8 *)l4)[0] != LOX_ICMP_ECHO_REPLY)
			return LOX_PASS_PROTOCOL;
		lox_echo_ports(p, ports[2], ((__u8 *)l4)[0] == LOX_ICMP_ECHO_REPLY);
		return 0;
	case IPPROTO_ICMPV6:
		if (lox_is_error6(*(__u8 *)l4))
			return LOX_PASS_ICMP_ERROR;
		if (((__u8 *)l4)[0] != LOX_ICMP6_ECHO && ((__u8 *)l4)[0] != LOX_ICMP6_ECHO_REPLY)
			return LOX_PASS_PROTOCOL;
		lox_echo_ports(p, ports[2], ((__u8 *)l4)[0] == LOX_ICMP6_ECHO_REPLY);
		return 0;
	}
	return LOX_PASS_PROTOCOL;
}

/* Least length of a transport header. */
LOX_INLINE __u32 lox_header_length(__u32 proto)
{
	return proto == IPPROTO_TCP ? sizeof(struct tcphdr) : sizeof(struct udphdr);
}

/* Does the IP header leave room for so much behind it, in a frame of this length? Padding does not (RFC 1812 5.2.2). */
LOX_INLINE bool lox_is_whole(const struct lox_packet *p, __u32 least, __u32 frame)
{
	__u32 end = LOX_L3 + p->bytes;

	return end >= p->l4 + least && end <= frame;
}

/* Which fragments a parser takes for packets. */
enum lox_fragments { LOX_NO_FRAGMENT, LOX_FIRST_FRAGMENT };

/* Returns 0 or the reason to pass. */
LOX_INLINE int lox_parse4(void *data, void *end, struct lox_packet *p, enum lox_fragments fragments)
{
	struct iphdr *ip = data + LOX_L3;

	if ((void *)(ip + 1) > end)
		return LOX_PASS_MALFORMED;
	if (ip->version != 4 || ip->ihl < 5)
		return LOX_PASS_MALFORMED;
	p->tuple.saddr.v4 = ip->saddr;
	p->tuple.daddr.v4 = ip->daddr;
	p->tuple.proto = ip->protocol;
	p->ttl = ip->ttl;
	p->bytes = bpf_ntohs(ip->tot_len);
	p->df = !!(ip->frag_off & bpf_htons(LOX_IP_DF));
	p->l4 = LOX_L3 + ip->ihl * 4;
	if (fragments == LOX_NO_FRAGMENT && ip->frag_off & bpf_htons(LOX_IP_FRAGMENT))
		return LOX_PASS_FRAGMENT;
	if (ip->protocol == IPPROTO_ICMPV6)
		return LOX_PASS_PROTOCOL;
	return lox_parse_l4(data, end, p);
}

#define LOX_IP6_HEADERS 4
#define LOX_HEADERS 0xc0 /* offset that a transport or fragment header behind extension headers may have */
/* All headers that a parser looks at: behind those a fragment header and the transport's. */
#define LOX_REACH (LOX_HEADERS + 8 + sizeof(struct tcphdr))

LOX_INLINE bool lox_is_extension(__u8 header)
{
	return header == IPPROTO_HOPOPTS || header == IPPROTO_ROUTING || header == IPPROTO_DSTOPTS;
}

/*
 * Walk over the extension headers (RFC 8200 section 4) to a fragment or transport header: `proto`, at offset `l4`. Not over
 * a routing header with segments left, whose destination is a stop on the way (section 4.4).
 */
LOX_INLINE bool lox_walk_extensions(void *data, void *end, __u32 *proto, __u32 *l4)
{
	for (int i = 0; i < LOX_IP6_HEADERS; i++) {
		__u8 *header = data + (*l4 & 0xff);

		if (!lox_is_extension(*proto))
			return true;
		if ((void *)(header + 8) > end || (*proto == IPPROTO_ROUTING && header[3]))
			return false;
		*proto = header[0];
		*l4 += 8 + header[1] * 8;
		if (*l4 > LOX_HEADERS)
			return false;
	}
	return !lox_is_extension(*proto);
}

/* Returns 0 or the reason to pass. */
LOX_INLINE int lox_parse6(void *data, void *end, struct lox_packet *p, enum lox_fragments fragments)
{
	struct ipv6hdr *ip = data + LOX_L3;

	if ((void *)(ip + 1) > end)
		return LOX_PASS_MALFORMED;
	if (ip->version != 6)
		return LOX_PASS_MALFORMED;
	__builtin_memcpy(&p->tuple.saddr, &ip->saddr, sizeof(ip->saddr));
	__builtin_memcpy(&p->tuple.daddr, &ip->daddr, sizeof(ip->daddr));
	p->tuple.proto = ip->nexthdr;
	p->ttl = ip->hop_limit;
	p->bytes = sizeof(*ip) + bpf_ntohs(ip->payload_len);
	p->df = 1;
	p->l4 = LOX_L3 + sizeof(*ip);
	if (lox_is_extension(ip->nexthdr)) {
		__u32 l4 = p->l4;

		if (!lox_walk_extensions(data, end, &p->tuple.proto, &l4))
			return LOX_PASS_PROTOCOL;
		p->l4 = l4;
	}
	if (p->tuple.proto == IPPROTO_FRAGMENT) {
		__u8 *header = data + (p->l4 & 0xff);

		if (fragments == LOX_NO_FRAGMENT)
			return LOX_PASS_FRAGMENT;
		if ((void *)(header + 8) > end)
			return LOX_PASS_MALFORMED;
		p->tuple.proto = header[0];
		p->l4 += 8;
	}
	if (p->tuple.proto == IPPROTO_ICMP)
		return LOX_PASS_PROTOCOL;
	return lox_parse_l4(data, end, p);
}

#endif
