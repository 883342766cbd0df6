/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * What the core needs of its hook, on XDP. A packet is either finished here (redirected or dropped) or passed
 * unmodified: the TC program behind sees what arrived.
 */
#ifndef LOX_SHIM_H
#define LOX_SHIM_H

#include "verdict.h"
#include "work.h"

typedef struct xdp_md lox_ctx;

enum { LOX_PASS = XDP_PASS, LOX_DROP = XDP_DROP, LOX_HOOK_IS_XDP = 1 };

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
	return ctx->ingress_ifindex;
}

/* Only packets the kernel has taken in can have one. */
LOX_INLINE __u32 lox_mark(lox_ctx *ctx)
{
	return 0;
}

/* Frames for another host are not ours to forward; XDP sees them only as multicast, or in promiscuous mode. */
LOX_INLINE bool lox_for_us(lox_ctx *ctx, const struct ethhdr *eth)
{
	return !(eth->h_dest[0] & 1);
}

LOX_INLINE bool lox_reach(lox_ctx *ctx, __u32 bytes)
{
	return false;
}

/* Are all bytes here that the headers tell of, and do they tell of so many behind the IP header? */
LOX_INLINE bool lox_complete_frame(lox_ctx *ctx, const struct lox_packet *p, __u32 least)
{
	return lox_is_whole(p, least, lox_end(ctx) - lox_data(ctx));
}

/* Length of the packet from the IP header on; XDP sees none that will be cut into segments. */
LOX_INLINE __u32 lox_length(lox_ctx *ctx, const struct lox_packet *p)
{
	return p->bytes;
}

LOX_INLINE __u32 lox_frame_length(lox_ctx *ctx)
{
	return lox_end(ctx) - lox_data(ctx);
}

#include "payload.h"

/*
 * A socket behind a veth leaves the checksum to its device: the field holds the sum of the pseudo-header alone. Frames
 * sent on by XDP never meet that device, so finish the checksum here. (A complete checksum that happens to look like
 * that, one in 65536, is computed again to the same value.)
 */
LOX_INLINE int lox_complete(lox_ctx *ctx, const bool v6)
{
	struct lox_work *w = lox_work();
	__u32 from, length;
	__u64 pseudo;
	__be16 *check;

	if (!w)
		return -1;
	from = w->p.l4;
	length = w->p.bytes + LOX_L3 - from;
	pseudo = (__u64)bpf_htonl(length) + bpf_htonl(w->p.tuple.proto);
	pseudo += v6 ? lox_csum_sum128(&w->p.tuple.saddr) + lox_csum_sum128(&w->p.tuple.daddr) :
		       (__u64)w->p.tuple.saddr.v4 + w->p.tuple.daddr.v4;
	check = lox_data(ctx) + (from & 0xff) + (w->p.tuple.proto == IPPROTO_TCP ? 16 : 6);
	if ((void *)(check + 1) > lox_end(ctx))
		return -1;
	if (*check == lox_csum_fold(pseudo)) /* the field stands for the pseudo-header in the sum */
		*check = (__u16)~lox_csum_fold(lox_csum_rest(ctx, from, length)) ?: 0xffff; /* to UDP zero means none */
	return 0;
}

__noinline int lox_complete4(lox_ctx *ctx)
{
	return lox_complete(ctx, false);
}

__noinline int lox_complete6(lox_ctx *ctx)
{
	return lox_complete(ctx, true);
}

LOX_INLINE void lox_before_rewrite(lox_ctx *ctx, const bool v6, const struct lox_packet *p)
{
	struct lox_work *w;

	if (!cfg.complete_checksum || (p->tuple.proto != IPPROTO_TCP && p->tuple.proto != IPPROTO_UDP))
		return;
	w = lox_work();
	if (!w)
		return;
	if (&w->p != p)
		w->p = *p;
	if (v6)
		lox_complete6(ctx);
	else
		lox_complete4(ctx);
}

/* Write the transport checksum at c->check after the addresses and ports have changed. */
LOX_INLINE int lox_fix_l4(lox_ctx *ctx, struct lox_change *c)
{
	void *data = lox_data(ctx), *end = lox_end(ctx);
	__be16 *check = data + (c->check & 0xff);

	if ((void *)(check + 1) > end)
		return -1;
	*check = lox_csum_changed(*check, c);
	return 0;
}

LOX_INLINE int lox_send(lox_ctx *ctx, __u32 ifindex, __u32 peer)
{
	return bpf_redirect(ifindex, 0);
}

/* Never reached, like the next one: such packets are passed to the TC program. */
LOX_INLINE int lox_send_up(void)
{
	return LOX_DROP;
}

LOX_INLINE int lox_send_neigh(__u32 ifindex, struct bpf_redir_neigh *to)
{
	return LOX_DROP;
}

#endif
