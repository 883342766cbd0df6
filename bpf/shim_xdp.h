/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * What the core needs of its hook, on XDP. A packet is either finished here (redirected or dropped) or passed
 * unmodified: the TC program behind sees what arrived.
 */
#ifndef LOX_SHIM_H
#define LOX_SHIM_H

#include "checksum.h"

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

/* Frames for another host are not ours to forward; XDP sees them only as multicast, or in promiscuous mode. */
LOX_INLINE bool lox_for_us(lox_ctx *ctx, const struct ethhdr *eth)
{
	return !(eth->h_dest[0] & 1);
}

LOX_INLINE void lox_reach(lox_ctx *ctx, __u32 bytes)
{
}

/*
 * Write the transport checksum at `check` after the addresses and ports have changed by the given sums. `partial` is
 * what the field holds if the sender left it to its device.
 */
LOX_INLINE int lox_fix_l4(lox_ctx *ctx, struct lox_change *c)
{
	void *data = lox_data(ctx), *end = lox_end(ctx);
	__be16 *check = data + (c->check & 0x7f);

	if ((void *)(check + 1) > end)
		return -1;
	if (c->zero_means_none && !*check)
		return 0;
	*check = lox_csum_apply(*check, (__u64)c->addresses + c->ports);
	if (c->zero_means_none && !*check)
		*check = 0xffff;
	return 0;
}

LOX_INLINE int lox_send(lox_ctx *ctx, __u32 ifindex, __u32 peer)
{
	return bpf_redirect(ifindex, 0);
}

/* Never reached: such packets are passed to the TC program. */
LOX_INLINE int lox_send_neigh(__u32 ifindex, struct bpf_redir_neigh *to)
{
	return LOX_DROP;
}

#endif
