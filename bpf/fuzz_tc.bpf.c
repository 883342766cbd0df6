// SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
/* The tc pipeline under random packets. */
#include "shim_tc.h"

LOX_INLINE long lox_fuzz_load(lox_ctx *ctx, void *to, __u32 length)
{
	return bpf_skb_load_bytes(ctx, 0, to, length);
}

LOX_INLINE long lox_fuzz_store(lox_ctx *ctx, void *from, __u32 length)
{
	return bpf_skb_store_bytes(ctx, 0, from, length, 0);
}

LOX_INLINE long lox_fuzz_resize(lox_ctx *ctx, __u32 length)
{
	return ctx->len == length ? 0 : bpf_skb_change_tail(ctx, length, 0);
}

#include "fuzz.h"

SEC("tc")
int fuzz_tc(struct __sk_buff *ctx)
{
	return lox_fuzz_one(ctx);
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
