/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/* Reports to the daemon: a flow was opened, a flow ended. */
#ifndef LOX_EVENT_H
#define LOX_EVENT_H

#include "flow.h"

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 131072);
} events SEC(".maps");

LOX_INLINE void lox_report(const bool v6, const struct lox_flow *f, const struct lox_cold *cold, __u8 kind)
{
	struct lox_runtime *rt = lox_runtime();
	struct lox_event *e;

	if (!rt || !rt->events || f->flags & LOX_FLOW_REPLY)
		return;
	e = bpf_ringbuf_reserve(&events, sizeof(*e), 0);
	if (!e) {
		__sync_fetch_and_add(&rt->events_lost, 1);
		return;
	}
	__builtin_memset(e, 0, sizeof(*e));
	if (v6) {
		e->saddr = ((const struct lox_flow6 *)f)->saddr;
		e->daddr = ((const struct lox_flow6 *)f)->daddr;
	} else {
		e->saddr.v4 = ((const struct lox_flow4 *)f)->saddr;
		e->daddr.v4 = ((const struct lox_flow4 *)f)->daddr;
	}
	e->sport = f->sport;
	e->dport = f->dport;
	e->family = v6 ? 6 : 4;
	e->proto = f->proto;
	e->kind = kind;
	e->state = f->state;
	e->rule = cold->rule;
	e->endpoint = cold->endpoint;
	e->packets = f->packets;
	e->bytes = f->bytes;
	bpf_ringbuf_submit(e, 0);
}

#endif
