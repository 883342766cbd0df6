// SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
/* The xdp pipeline under random packets. */
#include "shim_xdp.h"

LOX_INLINE long lox_fuzz_load(lox_ctx *ctx, void *to, __u32 length)
{
	return bpf_xdp_load_bytes(ctx, 0, to, length);
}

LOX_INLINE long lox_fuzz_store(lox_ctx *ctx, void *from, __u32 length)
{
	return bpf_xdp_store_bytes(ctx, 0, from, length);
}

/* XDP answers nothing: a packet keeps its length. */
LOX_INLINE long lox_fuzz_resize(lox_ctx *ctx, __u32 length)
{
	return lox_end(ctx) - lox_data(ctx) - (long)length;
}

#include "fuzz.h"

SEC("xdp")
int fuzz_xdp(struct xdp_md *ctx)
{
	return lox_fuzz_one(ctx);
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
