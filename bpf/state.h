/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/* Life of a flow: what a packet does to its state (RFC 9293 section 3.3.2, RFC 4787 section 4.3). */
#ifndef LOX_STATE_H
#define LOX_STATE_H

#include "flow.h"

LOX_INLINE bool lox_opens(const struct lox_packet *p)
{
	if (p->tuple.proto == IPPROTO_TCP)
		return (p->tcp_flags & (LOX_TCP_SYN | LOX_TCP_ACK | LOX_TCP_RST | LOX_TCP_FIN)) == LOX_TCP_SYN;
	return !p->echo_reply;
}

/* A SYN ends what is left of a closed connection between the same ports (RFC 9293 section 3.6.1). */
LOX_INLINE bool lox_reopens(const struct lox_packet *p, const struct lox_flow *f)
{
	return p->tuple.proto == IPPROTO_TCP && lox_opens(p) && !(f->flags & LOX_FLOW_REPLY) &&
	       (f->state == LOX_STATE_TIME_WAIT || f->state == LOX_STATE_RESET);
}

LOX_INLINE __u8 lox_tcp_next(__u8 state, __u8 tcp_flags, bool reply, bool peer_fin)
{
	if (tcp_flags & LOX_TCP_RST)
		return LOX_STATE_RESET;
	if (state == LOX_STATE_SYN_SENT && reply && (tcp_flags & LOX_TCP_SYN) && (tcp_flags & LOX_TCP_ACK))
		return LOX_STATE_SYN_RECEIVED;
	if (state == LOX_STATE_SYN_RECEIVED && !reply && (tcp_flags & LOX_TCP_ACK) && !(tcp_flags & LOX_TCP_SYN))
		state = LOX_STATE_ESTABLISHED;
	if ((tcp_flags & LOX_TCP_FIN) && (state == LOX_STATE_ESTABLISHED || state == LOX_STATE_CLOSING))
		return peer_fin ? LOX_STATE_TIME_WAIT : LOX_STATE_CLOSING;
	return state;
}

/* State after this packet. `peer_fin`: the other direction has sent its FIN. */
LOX_INLINE __u8 lox_next_state(const struct lox_packet *p, const struct lox_flow *f, bool peer_fin)
{
	bool reply = f->flags & LOX_FLOW_REPLY;

	if (p->tuple.proto == IPPROTO_TCP)
		return lox_tcp_next(f->state, p->tcp_flags, reply, peer_fin);
	return reply ? LOX_STATE_TWO_WAY : f->state;
}

/* Does a half-open flow in this state belong into the large table? */
LOX_INLINE bool lox_matures(const struct lox_flow *f, __u8 state)
{
	return state == LOX_STATE_ESTABLISHED || state == LOX_STATE_CLOSING || state == LOX_STATE_TWO_WAY ||
	       (state == LOX_STATE_ONE_WAY && f->packets >= LOX_ONE_WAY_PACKETS);
}

/* Write the state both directions share. */
LOX_INLINE void lox_set_state(struct lox_flow *f, struct lox_flow *peer, __u8 state, bool fin)
{
	if (fin)
		f->flags |= LOX_FLOW_FIN;
	if (f->state != state)
		WRITE_ONCE(f->state, state);
	if (peer && peer->state != state)
		WRITE_ONCE(peer->state, state);
}

#endif
