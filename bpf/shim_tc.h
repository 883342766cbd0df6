/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/* What the core needs of its hook, on TC ingress. */
#ifndef LOX_SHIM_H
#define LOX_SHIM_H

#include <linux/pkt_cls.h>
#include <bpf/bpf_core_read.h>

#include "checksum.h"
#include "verdict.h"
#include "work.h"

#define LOX_PACKET_HOST 0           /* PACKET_HOST of linux/if_packet.h */
#define LOX_LOOPBACK 1              /* index of lo in every network namespace */
#define LOX_CSUM_IPV6 (1ULL << 7)   /* BPF_F_IPV6, kernel 6.16: leaves CHECKSUM_COMPLETE alone */

typedef struct __sk_buff lox_ctx;

/* What passes goes on to the programs and filters of others on the device, which TC_ACT_OK would leave out. */
enum { LOX_PASS = TC_ACT_UNSPEC, LOX_DROP = TC_ACT_SHOT, LOX_HOOK_IS_XDP = 0 };

LOX_INLINE void *lox_data(lox_ctx *ctx)
{
	OPAQUE(ctx); /* clang 19 merges two loads into one from ctx + phi, which the verifier refuses */
	return (void *)(long)ctx->data;
}

LOX_INLINE void *lox_end(lox_ctx *ctx)
{
	OPAQUE(ctx);
	return (void *)(long)ctx->data_end;
}

LOX_INLINE __u32 lox_ifindex(lox_ctx *ctx)
{
	return ctx->ifindex;
}

/* What a program or filter before this one has marked the packet with. */
LOX_INLINE __u32 lox_mark(lox_ctx *ctx)
{
	return ctx->mark;
}

/* A tag kept beside the packet says that it belongs to another network: the VLAN device above hands it in without. */
LOX_INLINE bool lox_for_us(lox_ctx *ctx, const struct ethhdr *eth)
{
	return ctx->pkt_type == LOX_PACKET_HOST && !ctx->vlan_present;
}

/*
 * Make the first `bytes` of the packet, or all of a shorter one, directly accessible if they are not. True when more is
 * than before: pointers into the packet have changed.
 */
LOX_INLINE bool lox_reach(lox_ctx *ctx, __u32 bytes)
{
	__u32 length = ctx->len;

	if (length > bytes)
		length = bytes;
	return lox_data(ctx) + length > lox_end(ctx) && !bpf_skb_pull_data(ctx, length);
}

/* Are all bytes here that the headers tell of, and do they tell of so many behind the IP header? What merges segments beyond 64 KB tells no length. */
LOX_INLINE bool lox_complete_frame(lox_ctx *ctx, const struct lox_packet *p, __u32 least)
{
	return ctx->gso_size || lox_is_whole(p, least, ctx->len);
}

/* Length of the packet from the IP header on, or of the segments that it will be cut into later. */
LOX_INLINE __u32 lox_length(lox_ctx *ctx, const struct lox_packet *p)
{
	__u32 header = sizeof(struct udphdr);
	__u8 *l4;

	if (ctx->gso_segs <= 1)
		return p->bytes;
	l4 = lox_data(ctx) + (p->l4 & 0x7f);
	if (p->tuple.proto == IPPROTO_TCP && (void *)(l4 + sizeof(struct tcphdr)) <= lox_end(ctx))
		header = (l4[12] >> 4) * 4;
	return p->l4 - LOX_L3 + header + ctx->gso_size;
}

LOX_INLINE __u32 lox_frame_length(lox_ctx *ctx)
{
	return ctx->len;
}

LOX_INLINE void lox_before_rewrite(lox_ctx *ctx, const bool v6, const struct lox_packet *p)
{
}

/* What the kernel knows of a packet's transport checksum (linux/skbuff.h). */
enum lox_summed { LOX_SUM_NONE = 0, LOX_SUM_VERIFIED = 1, LOX_SUM_COMPLETE = 2, LOX_SUM_PARTIAL = 3 };

/* The kernel's own record of the packet; libbpf finds the member's place when the program is loaded. */
struct sk_buff {
	__u8 ip_summed : 2;
} __attribute__((preserve_access_index));

extern void *bpf_cast_to_kern_ctx(void *obj) __weak __ksym;

LOX_INLINE enum lox_summed lox_summed(lox_ctx *ctx)
{
	const struct sk_buff *skb = bpf_cast_to_kern_ctx(ctx);

	return BPF_CORE_READ_BITFIELD(skb, ip_summed);
}

/* The helper knows whether the checksum is complete, partial or verified by the device. */
LOX_INLINE int lox_fix_by_helper(lox_ctx *ctx, struct lox_change *c)
{
	__u64 flags = c->zero_means_none ? BPF_F_MARK_MANGLED_0 : 0;
	__u64 pseudo = flags | BPF_F_PSEUDO_HDR;
	__u32 addresses = lox_csum_wrap(c->addresses);

	if (c->v6 && cfg.ipv6_csum_flag)
		pseudo |= LOX_CSUM_IPV6;
	if (c->pseudo_header && addresses) {
		if (bpf_l4_csum_replace(ctx, c->check, 0, addresses, pseudo))
			return -1;
		/* Older kernels take the sum of the whole packet for changed, which holds for IPv4 alone. */
		if (c->v6 && !cfg.ipv6_csum_flag)
			bpf_csum_update(ctx, ~addresses);
	}
	if (c->ports)
		return bpf_l4_csum_replace(ctx, c->check, 0, lox_csum_wrap(c->ports), flags);
	return 0;
}

/*
 * Write the transport checksum at c->check after the addresses and ports have changed. The helper takes as long as all the
 * rest of the plain path, so it is called only where the sum of the whole packet must be kept true as well, or where the
 * program cannot see whether that is so. A partial checksum is the sum of the pseudo-header, which has no ports.
 */
LOX_INLINE int lox_fix_l4(lox_ctx *ctx, struct lox_change *c)
{
	enum lox_summed summed = cfg.kernel_ctx ? lox_summed(ctx) : LOX_SUM_COMPLETE;
	__be16 *check = lox_data(ctx) + (c->check & 0xff);

	if (summed == LOX_SUM_COMPLETE)
		return lox_fix_by_helper(ctx, c);
	if ((void *)(check + 1) > lox_end(ctx))
		return -1;
	if (summed != LOX_SUM_PARTIAL)
		*check = lox_csum_changed(*check, c);
	else if (c->pseudo_header)
		*check = lox_csum_fold(*check + c->addresses);
	return 0;
}

LOX_INLINE int lox_send(lox_ctx *ctx, __u32 ifindex, __u32 peer)
{
	if (peer)
		return bpf_redirect_peer(ifindex, 0);
	return bpf_redirect(ifindex, 0);
}

/* Let the packet come in by the loopback. */
LOX_INLINE int lox_send_up(void)
{
	return bpf_redirect(LOX_LOOPBACK, BPF_F_INGRESS);
}

/* Send through the kernel's neighbour table, which keeps the packet while it resolves. */
LOX_INLINE int lox_send_neigh(__u32 ifindex, struct bpf_redir_neigh *to)
{
	return bpf_redirect_neigh(ifindex, to, sizeof(*to), 0);
}

#endif
