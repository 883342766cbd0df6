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
	return (p->tcp_flags & (LOX_TCP_SYN | LOX_TCP_RST | LOX_TCP_FIN | LOX_TCP_ACK)) == LOX_TCP_ACK &&
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

/* Is a connection in this state closed, and only remembered? */
LOX_INLINE bool lox_over(__u8 state)
{
	return state == LOX_STATE_TIME_WAIT || state == LOX_STATE_RESET;
}

/* A SYN ends what is left of a closed connection between the same ports (RFC 9293 section 3.6.1). */
LOX_INLINE bool lox_reopens(const struct lox_packet *p, const struct lox_flow *f)
{
	return p->tuple.proto == IPPROTO_TCP && lox_opens(p) && !(f->flags & LOX_FLOW_REPLY) &&
	       lox_over(f->state);
}

/* Window scale where it is not known: the largest, so that nothing is taken for outside that is not (RFC 7323 section 2.3). */
#define LOX_SCALE_UNKNOWN 14
/* In lox_flow.window_scale: the direction's SYN had the option. */
#define LOX_SCALE_OFFERED 0x80
/* The largest window that can be said without scaling. */
#define LOX_WINDOW_UNSCALED 0xffff

/*
 * What a direction last said it expects: acknowledgement number, and how far its window reaches (RFC 9293 section 3.10.7.4).
 * Low and high half of lox_flow.sequence; 0 while it has said nothing.
 */
LOX_INLINE __u64 lox_said(__u32 expects, __u32 room)
{
	return (__u64)room << 32 | expects;
}

/*
 * Nobody acknowledges more than it has left room for, give or take a probe of a closed window. What does was made up, so that
 * a reset that fits it is believed; or it is older than what was said since.
 */
LOX_INLINE void lox_note(struct lox_flow *f, __u32 expects, __u32 room)
{
	__u64 said = READ_ONCE(f->sequence);
	__u32 ahead = expects - (__u32)said;

	if (!said || ahead <= (said >> 32) + LOX_WINDOW_UNSCALED)
		WRITE_ONCE(f->sequence, lox_said(expects, room));
}

LOX_INLINE void lox_note_window(const struct lox_packet *p, struct lox_flow *f)
{
	if (p->tcp_flags & LOX_TCP_ACK) /* else it says nothing, or is no segment */
		lox_note(f, bpf_ntohl(p->ack), bpf_ntohs(p->window) << (f->window_scale & 15));
}

/* Where a sequence number lies in the window of the direction it goes to. */
enum lox_place { LOX_OUTSIDE, LOX_INSIDE, LOX_EXACT };

LOX_INLINE enum lox_place lox_place_of(__u32 number, const struct lox_flow *receiver)
{
	__u64 said = receiver ? READ_ONCE(receiver->sequence) : 0;
	__u32 ahead = number - (__u32)said;

	if (!said || !ahead)
		return LOX_EXACT;
	return ahead <= said >> 32 ? LOX_INSIDE : LOX_OUTSIDE;
}

/* Does the segment acknowledge what its sender may have been sent, no less and no more? */
LOX_INLINE bool lox_acknowledges(const struct lox_packet *p, const struct lox_flow *own)
{
	__u64 said = READ_ONCE(own->sequence);

	return p->tcp_flags & LOX_TCP_ACK && (!said || bpf_ntohl(p->ack) - (__u32)said <= said >> 32);
}

/*
 * State after a reset: only the very next segment ends the connection, one ahead of it the receiver challenges (RFC 5961
 * section 3.2). The answer to a SYN is known by what it acknowledges (RFC 9293 section 3.10.7.3). LOX_STATE_NONE: it is
 * blind, and goes no further.
 */
LOX_INLINE __u8 lox_after_reset(const struct lox_packet *p, const struct lox_flow *own, const struct lox_flow *peer)
{
	enum lox_place place = lox_place_of(bpf_ntohl(p->seq), peer);

	if (own->state == LOX_STATE_SYN_SENT && own->flags & LOX_FLOW_REPLY)
		place = !own->sequence || lox_acknowledges(p, own) ? LOX_EXACT : LOX_OUTSIDE;
	if (place == LOX_OUTSIDE)
		return LOX_STATE_NONE;
	return place == LOX_EXACT ? LOX_STATE_RESET : own->state;
}

/*
 * State after a segment of the handshake; both ends may have begun it (RFC 9293 section 3.5). Where replies do not come by,
 * the client's acknowledgement alone completes it; else it must acknowledge the server's SYN, as only one that got it can.
 */
LOX_INLINE __u8 lox_after_opening(const struct lox_packet *p, const struct lox_flow *own, const struct lox_flow *peer)
{
	__u8 opening = p->tcp_flags & (LOX_TCP_SYN | LOX_TCP_ACK);
	bool reply = own->flags & LOX_FLOW_REPLY;

	if (own->state == LOX_STATE_SYN_SENT && reply)
		return opening == LOX_TCP_SYN || (opening & LOX_TCP_SYN && lox_acknowledges(p, own)) ?
			       LOX_STATE_SYN_RECEIVED :
			       LOX_STATE_SYN_SENT;
	if (own->state == LOX_STATE_SYN_SENT)
		return own->flags & LOX_FLOW_DIRECT && opening == LOX_TCP_ACK ? LOX_STATE_ESTABLISHED : LOX_STATE_SYN_SENT;
	if (own->state == LOX_STATE_SYN_RECEIVED && !reply && opening == LOX_TCP_ACK && lox_acknowledges(p, own) &&
	    lox_place_of(bpf_ntohl(p->seq), peer) != LOX_OUTSIDE)
		return LOX_STATE_ESTABLISHED;
	return own->state;
}

/* A FIN counts where its own number, the one behind the data, lies in the receiver's window. */
LOX_INLINE bool lox_finishes(const struct lox_work *w, const struct lox_flow *peer)
{
	__u32 number = bpf_ntohl(w->p.seq) + !!(w->p.tcp_flags & LOX_TCP_SYN) + w->payload;

	return w->p.tcp_flags & LOX_TCP_FIN && lox_place_of(number, peer) != LOX_OUTSIDE;
}

/* State of a connection past its handshake, by the directions that have sent their FIN. */
LOX_INLINE __u8 lox_after_fins(__u8 state, bool own, bool peer)
{
	if (state == LOX_STATE_SYN_SENT || state == LOX_STATE_SYN_RECEIVED || state == LOX_STATE_RESET)
		return state;
	if (own && peer)
		return LOX_STATE_TIME_WAIT;
	return own || peer ? LOX_STATE_CLOSING : LOX_STATE_ESTABLISHED;
}

/* What the endpoint will expect if it takes this SYN; it may acknowledge the data in it (RFC 7413). */
LOX_INLINE __u64 lox_expected_of_syn(const struct lox_work *w)
{
	return lox_said(bpf_ntohl(w->p.seq) + 1, w->payload);
}

/* What the two SYNs say: numbers, and scales, which count if both have one (RFC 7323 section 2.2). */
LOX_INLINE void lox_note_syn(const struct lox_work *w, struct lox_flow *own, struct lox_flow *peer, __u8 state)
{
	__u8 scale = w->scale;

	if (own->flags & LOX_FLOW_REPLY && state == LOX_STATE_SYN_RECEIVED) {
		if (!peer || !(scale & peer->window_scale & LOX_SCALE_OFFERED))
			scale = 0;
		if (peer && !scale)
			peer->window_scale = 0;
		/* The client's window is not known yet. */
		if (peer)
			WRITE_ONCE(peer->sequence, lox_said(bpf_ntohl(w->p.seq) + 1, LOX_WINDOW_UNSCALED));
		own->window_scale = scale;
	} else if (!(own->flags & LOX_FLOW_REPLY) && lox_opens(&w->p)) { /* sent again, maybe with another number */
		own->window_scale = scale;
		if (peer && !(own->flags & LOX_FLOW_DIRECT))
			WRITE_ONCE(peer->sequence, lox_expected_of_syn(w));
	}
}

/*
 * Note what a segment says, before its flow's state moves on to `state`: while the handshake is under way only where it
 * acknowledges the right thing. The window of a SYN is not scaled.
 */
LOX_INLINE void lox_note_segment(const struct lox_work *w, struct lox_flow *own, struct lox_flow *peer, __u8 state)
{
	const struct lox_packet *p = &w->p;
	bool opening = own->state == LOX_STATE_SYN_SENT || own->state == LOX_STATE_SYN_RECEIVED;
	bool believed = !opening || lox_acknowledges(p, own);

	if (p->tcp_flags & LOX_TCP_RST)
		return;
	if (own->state == LOX_STATE_SYN_SENT && p->tcp_flags & LOX_TCP_SYN)
		lox_note_syn(w, own, peer, state);
	if (believed && p->tcp_flags & LOX_TCP_ACK && p->tcp_flags & LOX_TCP_SYN)
		lox_note(own, bpf_ntohl(p->ack), bpf_ntohs(p->window));
	else if (believed)
		lox_note_window(p, own);
}

/* State after this packet, LOX_STATE_NONE for a blind reset. `fin`: it is the direction's FIN. */
LOX_INLINE __u8 lox_next_state(const struct lox_work *w, const struct lox_flow *own, const struct lox_flow *peer, bool *fin)
{
	__u8 state;

	*fin = false;
	if (w->p.tuple.proto != IPPROTO_TCP)
		return own->flags & LOX_FLOW_REPLY ? LOX_STATE_TWO_WAY : own->state;
	if (w->p.tcp_flags & LOX_TCP_RST)
		return lox_after_reset(&w->p, own, peer);
	state = lox_after_opening(&w->p, own, peer);
	*fin = state != LOX_STATE_SYN_SENT && lox_finishes(w, peer);
	return lox_after_fins(state, *fin || own->flags & LOX_FLOW_FIN, peer && peer->flags & LOX_FLOW_FIN);
}

/*
 * Does a half-open flow in this state belong into the large table? Not by the packet that opened it, which TC may get from
 * XDP after the flow is there.
 */
LOX_INLINE bool lox_matures(const struct lox_flow *f, __u8 state)
{
	if (!f->packets && !(f->flags & LOX_FLOW_REPLY))
		return false;
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
