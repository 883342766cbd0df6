// SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
/* The tc pipeline and an empty program, each behind the same restored packet. */
#include "shim_tc.h"
#include "pipeline.h"
#include "bench.h"

SEC("tc")
int bench4(struct __sk_buff *ctx)
{
	return lox_bench_restore(lox_data(ctx), lox_end(ctx), false) ? LOX_DROP : lox_frame(ctx);
}

SEC("tc")
int bench6(struct __sk_buff *ctx)
{
	return lox_bench_restore(lox_data(ctx), lox_end(ctx), true) ? LOX_DROP : lox_frame(ctx);
}

SEC("tc")
int empty4(struct __sk_buff *ctx)
{
	return lox_bench_restore(lox_data(ctx), lox_end(ctx), false) ? LOX_DROP : LOX_PASS;
}

SEC("tc")
int empty6(struct __sk_buff *ctx)
{
	return lox_bench_restore(lox_data(ctx), lox_end(ctx), true) ? LOX_DROP : LOX_PASS;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
