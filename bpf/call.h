/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * Global functions, which the verifier looks at once, whoever calls; and loops over them.
 *
 * They take pointers to memory since Linux 5.12, and the kernel loops by itself since 5.17 (bpf_loop). The legacy build
 * hands them a record of the CPU's instead, and loops in two levels, each of few enough rounds for the verifier.
 */
#ifndef LOX_CALL_H
#define LOX_CALL_H

#include "base.h"

#ifndef LOX_LEGACY

#define LOX_RECORD(_name, _type)

/* A global function `_name(_type *in)` that returns `_body`, of which `in` is the argument. */
#define LOX_FUNCTION(_result, _name, _type, _record, _body, _otherwise)                                                \
	__noinline _result _name(_type *in)                                                                            \
	{                                                                                                              \
		return in ? _body : _otherwise;                                                                        \
	}

/* `_name_loop(length, data)`: call `_name(i, data)` for each i below `length`, until it returns other than 0. */
#define LOX_LOOP(_name, _type, _record)                                                                                \
	LOX_INLINE void _name##_loop(__u32 length, _type *data)                                                        \
	{                                                                                                              \
		bpf_loop(length, _name, data, 0);                                                                      \
	}

#define lox_for_each(_map, _step, _data) bpf_for_each_map_elem(&_map, _step, _data, 0)

#else

/* One record a CPU: programs run with preemption off, and those of one object do not interrupt each other. */
#define LOX_RECORD(_name, _type)                                                                                       \
	struct {                                                                                                       \
		__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);                                                               \
		__uint(max_entries, 1);                                                                                \
		__type(key, __u32);                                                                                    \
		__type(value, _type);                                                                                  \
	} _name SEC(".maps");                                                                                          \
                                                                                                                       \
	LOX_INLINE _type *lox_##_name(void)                                                                            \
	{                                                                                                              \
		__u32 zero = 0;                                                                                        \
                                                                                                                       \
		return bpf_map_lookup_elem(&_name, &zero);                                                             \
	}

#define LOX_FUNCTION(_result, _name, _type, _record, _body, _otherwise)                                                \
	__noinline _result _name##_recorded(void)                                                                      \
	{                                                                                                              \
		_type *in = lox_##_record();                                                                           \
                                                                                                                       \
		return in ? _body : _otherwise;                                                                        \
	}                                                                                                              \
                                                                                                                       \
	LOX_INLINE _result _name(_type *in)                                                                            \
	{                                                                                                              \
		_type *copy = lox_##_record();                                                                         \
		_result result;                                                                                        \
                                                                                                                       \
		if (!copy)                                                                                             \
			return _otherwise;                                                                             \
		*copy = *in;                                                                                           \
		result = _name##_recorded();                                                                           \
		*in = *copy;                                                                                           \
		return result;                                                                                         \
	}

/* Rounds of either level, and of a loop at the most. */
#define LOX_ROUNDS 128
#define LOX_LOOP_ROUNDS (LOX_ROUNDS * LOX_ROUNDS)

#define LOX_LOOP(_name, _type, _record)                                                                                \
	__noinline int _name##_one(__u32 i)                                                                            \
	{                                                                                                              \
		_type *data = lox_##_record();                                                                         \
                                                                                                                       \
		return data ? _name(i, data) : 1;                                                                      \
	}                                                                                                              \
                                                                                                                       \
	__noinline int _name##_some(__u32 from, __u32 length)                                                          \
	{                                                                                                              \
		for (__u32 i = 0; i < LOX_ROUNDS; i++)                                                                 \
			if (from + i >= length || _name##_one(from + i))                                               \
				return 1;                                                                              \
		return 0;                                                                                              \
	}                                                                                                              \
                                                                                                                       \
	LOX_INLINE void _name##_loop(__u32 length, _type *data)                                                        \
	{                                                                                                              \
		_type *copy = lox_##_record();                                                                         \
                                                                                                                       \
		if (!copy)                                                                                             \
			return;                                                                                        \
		*copy = *data;                                                                                         \
		for (__u32 i = 0; i < LOX_ROUNDS; i++)                                                                 \
			if (_name##_some(i * LOX_ROUNDS, length))                                                      \
				break;                                                                                 \
		*data = *copy;                                                                                         \
	}

/* The elements of a hash map cannot be walked: the daemon names them one by one. */
#define lox_for_each(_map, _step, _data) ((void)(_step))

#endif

#endif
