// SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
/* Socket calls of processes on this host, in the control groups below the one these are attached to. */
#include "local.h"

SEC("cgroup/connect4")
int lox_connect4(struct bpf_sock_addr *ctx)
{
	return lox_call4(ctx, LOX_CALL_CONNECT);
}

SEC("cgroup/connect6")
int lox_connect6(struct bpf_sock_addr *ctx)
{
	return lox_call6(ctx, LOX_CALL_CONNECT);
}

SEC("cgroup/sendmsg4")
int lox_sendmsg4(struct bpf_sock_addr *ctx)
{
	return lox_call4(ctx, LOX_CALL_SEND);
}

SEC("cgroup/sendmsg6")
int lox_sendmsg6(struct bpf_sock_addr *ctx)
{
	return lox_call6(ctx, LOX_CALL_SEND);
}

SEC("cgroup/recvmsg4")
int lox_recvmsg4(struct bpf_sock_addr *ctx)
{
	return lox_call4(ctx, LOX_CALL_RECEIVE);
}

SEC("cgroup/recvmsg6")
int lox_recvmsg6(struct bpf_sock_addr *ctx)
{
	return lox_call6(ctx, LOX_CALL_RECEIVE);
}

SEC("cgroup/getpeername4")
int lox_getpeername4(struct bpf_sock_addr *ctx)
{
	return lox_call4(ctx, LOX_CALL_PEER);
}

SEC("cgroup/getpeername6")
int lox_getpeername6(struct bpf_sock_addr *ctx)
{
	return lox_call6(ctx, LOX_CALL_PEER);
}

SEC("cgroup/sock_release")
int lox_sock_release(struct bpf_sock *sk)
{
	return lox_release(sk);
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
