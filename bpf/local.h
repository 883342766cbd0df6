/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * Clients on this host. Their packets to a service never arrive at an interface, so the socket itself is directed at an
 * endpoint, when it connects or sends; where the kernel tells it who its peer is, the service is put back. No packet is
 * rewritten and no flow is kept.
 *
 * These programs run in processes, and packets may interrupt them: they must not touch lox_work.
 */
#ifndef LOX_LOCAL_H
#define LOX_LOCAL_H

#include "service.h"
#include "verdict.h"

#define LOX_ECONNREFUSED 111 /* asm-generic/errno.h, on all but MIPS, PA-RISC, SPARC and Alpha */

enum { LOX_CALL_REFUSE = 0, LOX_CALL_GO = 1 };

enum lox_call { LOX_CALL_CONNECT, LOX_CALL_SEND, LOX_CALL_RECEIVE, LOX_CALL_PEER };

struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct lox_local);
} locals SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, __u64);
	__type(value, struct lox_connected);
} connected SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 1);
	__type(key, struct lox_errand_key);
	__type(value, struct lox_errand);
} errands SEC(".maps");

/* The peer in a socket call. An IPv4 address in its IPv6 form (RFC 4291 section 2.5.5.2) is held as an IPv4 one. */
struct lox_sockaddr {
	union lox_addr addr;
	__be16 port;
};

/* Packets count without a lock and may interrupt this: hence the atomic addition. */
LOX_INLINE void lox_count_call(enum lox_reason reason)
{
	__u32 at = reason;
	__u64 *n = bpf_map_lookup_elem(&reasons, &at);

	if (n)
		__sync_fetch_and_add(n, 1);
}

/* Have the call fail: with ECONNREFUSED where nobody serves, else with EPERM. */
LOX_INLINE int lox_refuse_call(enum lox_reason reason)
{
	lox_count_call(reason);
	if (cfg.set_retval && (reason == LOX_DROP_NO_ENDPOINT || reason == LOX_DROP_LOOP))
		bpf_set_retval(-LOX_ECONNREFUSED);
	return LOX_CALL_REFUSE;
}

LOX_INLINE struct lox_local *lox_local_of(struct bpf_sock_addr *ctx, __u64 flags)
{
	return ctx->sk ? bpf_sk_storage_get(&locals, ctx->sk, NULL, flags) : NULL;
}

/* Is the socket connected, in this family? It may have been disconnected since, which changes nothing here. */
LOX_INLINE bool lox_is_connected(const bool v6, const struct lox_local *mine)
{
	return mine && mine->endpoint && mine->family == (v6 ? 6 : 4);
}

LOX_INLINE bool lox_at(const bool v6, const struct lox_sockaddr *at, const union lox_addr *addr, __be16 port)
{
	return at->port == port && (v6 ? lox_equal6(&at->addr, addr) : at->addr.v4 == addr->v4);
}

LOX_INLINE void lox_source_of(struct bpf_sock_addr *ctx, const bool v6, const enum lox_call call, union lox_addr *source)
{
	struct bpf_sock *sk = ctx->sk;

	if (call == LOX_CALL_SEND && v6) {
		source->word[0] = ctx->msg_src_ip6[0];
		source->word[1] = ctx->msg_src_ip6[1];
		source->word[2] = ctx->msg_src_ip6[2];
		source->word[3] = ctx->msg_src_ip6[3];
	} else if (call == LOX_CALL_SEND) {
		source->v4 = ctx->msg_src_ip4;
	} else if (sk && v6) {
		source->word[0] = sk->src_ip6[0];
		source->word[1] = sk->src_ip6[1];
		source->word[2] = sk->src_ip6[2];
		source->word[3] = sk->src_ip6[3];
	} else if (sk) {
		source->v4 = sk->src_ip4;
	}
}

/*
 * The flow that a socket is about to open. The kernel chooses what the socket is not bound to only later. Until then the
 * source address is the service's own, which is what the kernel takes towards an address of this host, and the socket's
 * cookie stands in for the port.
 */
LOX_INLINE void lox_flow_ahead(struct bpf_sock_addr *ctx, const bool v6, const enum lox_call call,
			       const struct lox_sockaddr *to, struct lox_tuple *t)
{
	struct bpf_sock *sk = ctx->sk;

	t->daddr = to->addr;
	t->dport = to->port;
	t->proto = ctx->protocol;
	lox_source_of(ctx, v6, call, &t->saddr);
	if (v6 ? !(t->saddr.half[0] | t->saddr.half[1]) : !t->saddr.v4)
		t->saddr = to->addr;
	if (sk)
		t->sport = bpf_htons(sk->src_port);
	if (!t->sport)
		t->sport = bpf_get_socket_cookie(ctx);
}

struct lox_choice {
	__u32 rule;
	__u32 endpoint;
};

/*
 * Choose an endpoint of `rule` for `t`, whose destination becomes the endpoint's. One that is itself a service is followed,
 * unless it is the same one: then it is a server of this host. Returns 0 or the reason to refuse.
 */
LOX_INLINE int lox_direct(const bool v6, __u32 rule, struct lox_tuple *t, struct lox_choice *choice)
{
	for (int i = 0; i <= LOX_SERVICES_BEHIND; i++) {
		int id = lox_choose_for(v6, rule, t);
		struct lox_endpoint *e;

		if (id <= 0)
			return -id;
		e = lox_live_endpoint(id, rule);
		if (!e || e->family != (v6 ? 6 : 4))
			return LOX_DROP_NO_ENDPOINT;
		t->daddr = e->addr;
		t->dport = e->port;
		choice->rule = rule;
		choice->endpoint = id;
		rule = lox_service_at(v6, &t->daddr, t->dport, t->proto);
		if (!rule || rule == choice->rule)
			return 0;
	}
	return LOX_DROP_LOOP;
}

/* A connected socket burdens its endpoint until it is closed, or connects to something else. */
LOX_INLINE void lox_leave_local(struct lox_local *mine, __u64 cookie)
{
	__u32 endpoint = __sync_lock_test_and_set(&mine->endpoint, 0);
	struct lox_endpoint_state *state = bpf_map_lookup_elem(&endpoint_states, &endpoint);

	if (endpoint && state && state->epoch == mine->epoch)
		__sync_fetch_and_add(&state->active, -1);
	if (endpoint)
		bpf_map_delete_elem(&connected, &cookie);
}

LOX_INLINE void lox_enter_local(const bool v6, struct lox_local *mine, const struct lox_sockaddr *to, const struct lox_tuple *t,
				const struct lox_choice *choice, __u64 cookie)
{
	struct lox_connected what = { .rule = choice->rule, .endpoint = choice->endpoint };
	struct lox_endpoint_state *state = bpf_map_lookup_elem(&endpoint_states, &choice->endpoint);

	mine->service = to->addr;
	mine->service_port = to->port;
	mine->addr = t->daddr;
	mine->port = t->dport;
	mine->rule = choice->rule;
	mine->family = v6 ? 6 : 4;
	if (!state)
		return;
	mine->epoch = state->epoch;
	__sync_fetch_and_add(&state->active, 1);
	__sync_fetch_and_add(&state->opened, 1);
	mine->endpoint = choice->endpoint;
	bpf_map_update_elem(&connected, &cookie, &what, BPF_ANY); /* when full, it outlives its endpoint */
}

LOX_INLINE int lox_connect(struct bpf_sock_addr *ctx, const bool v6, struct lox_sockaddr *to)
{
	struct lox_local *mine = lox_local_of(ctx, 0);
	struct lox_choice choice = {};
	struct lox_tuple t = {};
	__u32 rule;
	int reason;

	if (mine)
		lox_leave_local(mine, bpf_get_socket_cookie(ctx));
	lox_flow_ahead(ctx, v6, LOX_CALL_CONNECT, to, &t);
	rule = lox_service_at(v6, &t.daddr, t.dport, t.proto);
	if (!rule)
		return LOX_CALL_GO;
	reason = lox_direct(v6, rule, &t, &choice);
	if (reason)
		return lox_refuse_call(reason);
	mine = lox_local_of(ctx, BPF_SK_STORAGE_GET_F_CREATE);
	if (!mine)
		return lox_refuse_call(LOX_DROP_BUSY);
	lox_enter_local(v6, mine, to, &t, &choice, bpf_get_socket_cookie(ctx));
	to->addr = t.daddr;
	to->port = t.dport;
	lox_count_call(LOX_FORWARD_SOCKET);
	return LOX_CALL_GO;
}

LOX_INLINE void lox_errand_key_of(struct bpf_sock_addr *ctx, const bool v6, const union lox_addr *addr, __be16 port,
				  __u8 reply, struct lox_errand_key *key)
{
	__builtin_memset(key, 0, sizeof(*key));
	key->addr = *addr;
	key->port = port;
	key->cookie = bpf_get_socket_cookie(ctx);
	key->family = v6 ? 6 : 4;
	key->reply = reply;
}

/* Is the endpoint that this socket sent to last still the one to send to? */
LOX_INLINE bool lox_errand_holds(const struct lox_errand *errand, __u32 rule_id)
{
	struct lox_rule *rule = bpf_map_lookup_elem(&rules, &rule_id);

	return rule && errand->listener == rule_id && lox_now() - errand->last <= rule->timeout &&
	       lox_live_endpoint(errand->endpoint, errand->rule);
}

/* Choose an endpoint for what this socket sends to a service, and note both directions. 0, or the reason to refuse. */
LOX_INLINE int lox_new_errand(struct bpf_sock_addr *ctx, const bool v6, __u32 rule, struct lox_tuple *t,
			      struct lox_errand_key *key)
{
	struct lox_errand errand = { .listener = rule, .last = lox_now() };
	struct lox_choice choice = {};
	int reason = lox_direct(v6, rule, t, &choice);

	if (reason)
		return reason;
	errand.rule = choice.rule;
	errand.endpoint = choice.endpoint;
	errand.addr = t->daddr;
	errand.port = t->dport;
	if (bpf_map_update_elem(&errands, key, &errand, BPF_ANY))
		return LOX_DROP_BUSY;
	errand.addr = key->addr;
	errand.port = key->port;
	lox_errand_key_of(ctx, v6, &t->daddr, t->dport, 1, key);
	if (bpf_map_update_elem(&errands, key, &errand, BPF_ANY))
		return LOX_DROP_BUSY;
	lox_count_call(LOX_FORWARD_SOCKET);
	return 0;
}

/* A datagram with an address of its own. What one socket sends to one service goes to one endpoint, as a flow does. */
LOX_INLINE int lox_send_to(struct bpf_sock_addr *ctx, const bool v6, struct lox_sockaddr *to)
{
	struct lox_local *mine = lox_local_of(ctx, 0);
	struct lox_errand_key key;
	struct lox_errand *errand;
	struct lox_tuple t = {};
	__u32 rule;
	int reason;

	lox_flow_ahead(ctx, v6, LOX_CALL_SEND, to, &t);
	rule = lox_service_at(v6, &t.daddr, t.dport, t.proto);
	lox_errand_key_of(ctx, v6, &to->addr, to->port, !rule, &key);
	if (!rule) {
		if (mine) /* what answers is the endpoint itself from now on */
			bpf_map_delete_elem(&errands, &key);
		return LOX_CALL_GO;
	}
	/* A connected socket hears its own endpoint only. */
	if (lox_is_connected(v6, mine) && lox_at(v6, to, &mine->service, mine->service_port) &&
	    lox_live_endpoint(mine->endpoint, mine->rule)) {
		to->addr = mine->addr;
		to->port = mine->port;
		return LOX_CALL_GO;
	}
	if (!mine && !lox_local_of(ctx, BPF_SK_STORAGE_GET_F_CREATE))
		return lox_refuse_call(LOX_DROP_BUSY);
	errand = bpf_map_lookup_elem(&errands, &key);
	if (errand && lox_errand_holds(errand, rule)) {
		errand->last = lox_now();
		to->addr = errand->addr;
		to->port = errand->port;
		return LOX_CALL_GO;
	}
	reason = lox_new_errand(ctx, v6, rule, &t, &key);
	if (reason)
		return lox_refuse_call(reason);
	to->addr = t.daddr;
	to->port = t.dport;
	return LOX_CALL_GO;
}

/* Put the service back where the kernel names the endpoint. */
LOX_INLINE void lox_show(struct bpf_sock_addr *ctx, const bool v6, const enum lox_call call, struct lox_sockaddr *from)
{
	struct lox_local *mine = lox_local_of(ctx, 0);
	struct lox_errand_key key;
	struct lox_errand *errand;

	if (!mine)
		return;
	if (lox_is_connected(v6, mine) && lox_at(v6, from, &mine->addr, mine->port)) {
		from->addr = mine->service;
		from->port = mine->service_port;
		return;
	}
	if (call == LOX_CALL_PEER)
		return;
	lox_errand_key_of(ctx, v6, &from->addr, from->port, 1, &key);
	errand = bpf_map_lookup_elem(&errands, &key);
	if (!errand)
		return;
	from->addr = errand->addr;
	from->port = errand->port;
}

/* Sockets of other network namespaces are in the same control groups. */
LOX_INLINE bool lox_our_call(struct bpf_sock_addr *ctx)
{
	return cfg.netns && bpf_get_netns_cookie(ctx) == cfg.netns &&
	       (ctx->protocol == IPPROTO_TCP || ctx->protocol == IPPROTO_UDP);
}

LOX_INLINE int lox_serve_call(struct bpf_sock_addr *ctx, const bool v6, const enum lox_call call,
			      struct lox_sockaddr *peer)
{
	if (call == LOX_CALL_CONNECT)
		return lox_connect(ctx, v6, peer);
	if (call == LOX_CALL_SEND)
		return lox_send_to(ctx, v6, peer);
	lox_show(ctx, v6, call, peer);
	return LOX_CALL_GO;
}

LOX_INLINE int lox_call4(struct bpf_sock_addr *ctx, const enum lox_call call)
{
	struct lox_sockaddr peer = { .addr.v4 = ctx->user_ip4, .port = ctx->user_port };
	int verdict;

	if (!lox_our_call(ctx))
		return LOX_CALL_GO;
	verdict = lox_serve_call(ctx, false, call, &peer);
	ctx->user_ip4 = peer.addr.v4;
	ctx->user_port = peer.port;
	return verdict;
}

LOX_INLINE int lox_call6(struct bpf_sock_addr *ctx, const enum lox_call call)
{
	struct lox_sockaddr peer = { .port = ctx->user_port };
	bool mapped = !ctx->user_ip6[0] && !ctx->user_ip6[1] && ctx->user_ip6[2] == bpf_htonl(0xffff);
	int verdict;

	if (!lox_our_call(ctx))
		return LOX_CALL_GO;
	if (mapped && call != LOX_CALL_SEND) { /* the kernel sends these as IPv4 */
		peer.addr.v4 = ctx->user_ip6[3];
		verdict = lox_serve_call(ctx, false, call, &peer);
		ctx->user_ip6[3] = peer.addr.v4;
		ctx->user_port = peer.port;
		return verdict;
	}
	peer.addr.word[0] = ctx->user_ip6[0];
	peer.addr.word[1] = ctx->user_ip6[1];
	peer.addr.word[2] = ctx->user_ip6[2];
	peer.addr.word[3] = ctx->user_ip6[3];
	verdict = lox_serve_call(ctx, true, call, &peer);
	ctx->user_ip6[0] = peer.addr.word[0];
	ctx->user_ip6[1] = peer.addr.word[1];
	ctx->user_ip6[2] = peer.addr.word[2];
	ctx->user_ip6[3] = peer.addr.word[3];
	ctx->user_port = peer.port;
	return verdict;
}

/* A socket is closed. */
LOX_INLINE int lox_release(struct bpf_sock *sk)
{
	struct lox_local *mine;

	if (!cfg.netns || bpf_get_netns_cookie(sk) != cfg.netns)
		return LOX_CALL_GO;
	mine = bpf_sk_storage_get(&locals, sk, NULL, 0);
	if (mine)
		lox_leave_local(mine, bpf_get_socket_cookie(sk));
	return LOX_CALL_GO;
}

#endif
