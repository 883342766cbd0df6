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
	__u16 l4;    /* offset of the transport header */
	__u8 tcp_flags;
	__u8 ttl;
	__u8 echo_reply;
	__u8 pad[3];
};

/* Ports of the two echo directions differ, so that a reply's tuple is the request's reversed (RFC 792, RFC 4443). */
LOX_INLINE void lox_echo_ports(struct lox_packet *p, __be16 id, bool reply)
{
	p->echo_reply = reply;
	p->tuple.sport = reply ? 0 : id;
	p->tuple.dport = reply ? id : 0;
}

/* Read ports (or the echo identifier) from the transport header at data + p->l4. Returns 0 or the reason to pass. */
LOX_INLINE int lox_parse_l4(void *data, void *end, struct lox_packet *p)
{
	void *l4 = data + (p->l4 & 0x7f);
	__be16 *ports = l4;

	p->tcp_flags = 0;
	p->echo_reply = 0;
	if (l4 + 8 > end)
		return LOX_PASS_MALFORMED;
	switch (p->tuple.proto) {
	case IPPROTO_TCP:
		if (l4 + sizeof(struct tcphdr) > end)
			return LOX_PASS_MALFORMED;
		p->tcp_flags = ((__u8 *)l4)[13];
		/* fallthrough */
	case IPPROTO_UDP:
		p->tuple.sport = ports[0];
		p->tuple.dport = ports[1];
		return 0;
	case IPPROTO_ICMP:
		if (((__u8 *)l4)[0] != LOX_ICMP_ECHO && ((__u8 *)l4)[0] != LOX_ICMP_ECHO_REPLY)
			return LOX_PASS_PROTOCOL;
		lox_echo_ports(p, ports[2], ((__u8 *)l4)[0] == LOX_ICMP_ECHO_REPLY);
		return 0;
	case IPPROTO_ICMPV6:
		if (((__u8 *)l4)[0] != LOX_ICMP6_ECHO && ((__u8 *)l4)[0] != LOX_ICMP6_ECHO_REPLY)
			return LOX_PASS_PROTOCOL;
		lox_echo_ports(p, ports[2], ((__u8 *)l4)[0] == LOX_ICMP6_ECHO_REPLY);
		return 0;
	}
	return LOX_PASS_PROTOCOL;
}

/* Returns 0 or the reason to pass. */
LOX_INLINE int lox_parse4(void *data, void *end, struct lox_packet *p)
{
	struct iphdr *ip = data + LOX_L3;

	if ((void *)(ip + 1) > end)
		return LOX_PASS_MALFORMED;
	if (ip->version != 4 || ip->ihl < 5)
		return LOX_PASS_MALFORMED;
	if (ip->frag_off & bpf_htons(LOX_IP_FRAGMENT))
		return LOX_PASS_FRAGMENT;
	p->tuple.saddr.v4 = ip->saddr;
	p->tuple.daddr.v4 = ip->daddr;
	p->tuple.proto = ip->protocol;
	p->ttl = ip->ttl;
	p->bytes = bpf_ntohs(ip->tot_len);
	p->l4 = LOX_L3 + ip->ihl * 4;
	if (ip->protocol == IPPROTO_ICMPV6)
		return LOX_PASS_PROTOCOL;
	return lox_parse_l4(data, end, p);
}

/* Returns 0 or the reason to pass. */
LOX_INLINE int lox_parse6(void *data, void *end, struct lox_packet *p)
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
	p->l4 = LOX_L3 + sizeof(*ip);
	if (ip->nexthdr == IPPROTO_FRAGMENT)
		return LOX_PASS_FRAGMENT;
	if (ip->nexthdr == IPPROTO_ICMP)
		return LOX_PASS_PROTOCOL;
	return lox_parse_l4(data, end, p);
}

#endif
