/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/* Life of a flow: what a packet does to its state (RFC 9293 section 3.3.2, RFC 4787 section 4.3). */
#ifndef LOX_STATE_H
#define LOX_STATE_H

#include "service.h"

LOX_INLINE bool lox_opens(const struct lox_packet *p)
{
	if (p->tuple.proto == IPPROTO_TCP)
		return (p->tcp_flags & (LOX_TCP_SYN | LOX_TCP_ACK | LOX_TCP_RST | LOX_TCP_FIN)) == LOX_TCP_SYN;
	return !p->echo_reply;
}

/*
 * May a segment in mid-stream open a flow that is not there? Only where the choice of the endpoint is the same again, and
 * the client's port is kept.
 */
LOX_INLINE bool lox_picks_up(const struct lox_packet *p, const struct lox_rule *rule)
{
	return p->tuple.proto == IPPROTO_TCP && !(p->tcp_flags & (LOX_TCP_SYN | LOX_TCP_RST | LOX_TCP_FIN)) &&
	       (rule->mode == LOX_MODE_DEFAULT || rule->mode == LOX_MODE_DSR) &&
	       (rule->select == LOX_SELECT_HASH || rule->select == LOX_SELECT_PERSIST);
}

/* A source that is no host's: nothing, loopback, a group, everybody (RFC 1812 section 5.3.7). */
LOX_INLINE bool lox_martian4(__be32 addr)
{
	__u32 host = bpf_ntohl(addr);

	return !host || host >> 24 == 127 || host >> 28 == 0xe || host == 0xffffffff;
}

/* The same, and what must not leave its link (RFC 4291 sections 2.5.2, 2.5.3, 2.5.6, 2.7). */
LOX_INLINE bool lox_martian6(const union lox_addr *addr)
{
	if ((addr->word[0] & bpf_htonl(0xff000000)) == bpf_htonl(0xff000000) ||
	    (addr->word[0] & bpf_htonl(0xffc00000)) == bpf_htonl(0xfe800000))
		return true;
	return !addr->half[0] && !addr->word[2] && !(addr->word[3] & ~bpf_htonl(1));
}

/* A SYN ends what is left of a closed connection between the same ports (RFC 9293 section 3.6.1). */
LOX_INLINE bool lox_reopens(const struct lox_packet *p, const struct lox_flow *f)
{
	return p->tuple.proto == IPPROTO_TCP && lox_opens(p) && !(f->flags & LOX_FLOW_REPLY) &&
	       (f->state == LOX_STATE_TIME_WAIT || f->state == LOX_STATE_RESET);
}

/*
 * What a direction last said it expects: acknowledgement number, and how far its window reaches (RFC 9293 section 3.10.7.4).
 * Low and high half of lox_flow.sequence; 0 while it has said nothing.
 */
LOX_INLINE void lox_note_window(const struct lox_packet *p, struct lox_flow *f)
{
	if (p->tuple.proto == IPPROTO_TCP)
		WRITE_ONCE(f->sequence, (__u64)(bpf_ntohs(p->window) << (f->window_scale & 15)) << 32 | bpf_ntohl(p->ack));
}

/* What the sender of this SYN expects to be acknowledged; its window is not known yet. */
LOX_INLINE __u64 lox_expected_of(const struct lox_packet *p)
{
	return (__u64)1 << 32 | (bpf_ntohl(p->seq) + 1);
}

/* Where a segment's sequence number lies in the window of the direction it goes to. */
enum lox_place { LOX_OUTSIDE, LOX_INSIDE, LOX_EXACT };

LOX_INLINE enum lox_place lox_place_of(const struct lox_packet *p, const struct lox_flow *receiver)
{
	__u64 said = receiver ? READ_ONCE(receiver->sequence) : 0;
	__u32 ahead;

	if (!said)
		return LOX_EXACT;
	/* The answer to a SYN is known by what it acknowledges (RFC 9293 section 3.10.7.3). */
	if (receiver->state == LOX_STATE_SYN_SENT)
		return bpf_ntohl(p->ack) == (__u32)said ? LOX_EXACT : LOX_OUTSIDE;
	ahead = bpf_ntohl(p->seq) - (__u32)said;
	if (!ahead)
		return LOX_EXACT;
	return ahead <= said >> 32 ? LOX_INSIDE : LOX_OUTSIDE;
}

/* What a client that has seen this SYN,ACK expects next; its own window is not known yet. */
LOX_INLINE void lox_note_answer(const struct lox_packet *p, struct lox_flow *client)
{
	WRITE_ONCE(client->sequence, 0xffffULL << 32 | (bpf_ntohl(p->seq) + 1));
}

/* `direct`: replies do not come by, so the client's acknowledgement alone completes the handshake. */
LOX_INLINE __u8 lox_tcp_next(__u8 state, __u8 tcp_flags, bool reply, bool peer_fin, bool direct)
{
	if (tcp_flags & LOX_TCP_RST)
		return LOX_STATE_RESET;
	if (state == LOX_STATE_SYN_SENT && reply && (tcp_flags & LOX_TCP_SYN) && (tcp_flags & LOX_TCP_ACK))
		return LOX_STATE_SYN_RECEIVED;
	if ((state == LOX_STATE_SYN_RECEIVED || (state == LOX_STATE_SYN_SENT && direct)) && !reply &&
	    (tcp_flags & LOX_TCP_ACK) && !(tcp_flags & LOX_TCP_SYN))
		state = LOX_STATE_ESTABLISHED;
	if ((tcp_flags & LOX_TCP_FIN) && (state == LOX_STATE_ESTABLISHED || state == LOX_STATE_CLOSING))
		return peer_fin ? LOX_STATE_TIME_WAIT : LOX_STATE_CLOSING;
	return state;
}

/* State after this packet, with those of its TCP flags that count. `peer_fin`: the other direction has sent its FIN. */
LOX_INLINE __u8 lox_next_state(const struct lox_packet *p, const struct lox_flow *f, __u8 tcp_flags, bool peer_fin)
{
	bool reply = f->flags & LOX_FLOW_REPLY;

	if (p->tuple.proto == IPPROTO_TCP)
		return lox_tcp_next(f->state, tcp_flags, reply, peer_fin, f->flags & LOX_FLOW_DIRECT);
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
		lox_set_flags(f, LOX_FLOW_FIN);
	if (f->state != state)
		WRITE_ONCE(f->state, state);
	if (peer && peer->state != state)
		WRITE_ONCE(peer->state, state);
}

#endif
