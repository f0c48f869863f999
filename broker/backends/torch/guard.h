/* SPDX-License-Identifier: Apache-2.0 */
/*
 * guard.h - no exception leaves the plug-in: guard() runs a function and turns whatever it throws into a negative errno and
 * one line of text. Interpreter errors arrive as std::runtime_error, not as c10::Error, so all three levels are caught.
 */
#pragma once

#include <c10/util/Exception.h>
#include <cerrno>
#include <cstddef>
#include <exception>
#include <new>

namespace inf
{

/* Copies the first line of `text`. */
void set_error(char *error, size_t error_bytes, const char *text) noexcept;

template <typename F> int guard(char *error, size_t error_bytes, F &&function) noexcept
{
	try {
		return function();
	} catch (const std::bad_alloc &) {
		set_error(error, error_bytes, "out of memory");
		return -ENOMEM;
	} catch (const c10::Error &e) {
		set_error(error, error_bytes, e.what_without_backtrace());
		return -EIO;
	} catch (const std::exception &e) {
		set_error(error, error_bytes, e.what());
		return -EIO;
	} catch (...) {
		set_error(error, error_bytes, "an exception of an unknown type");
		return -EIO;
	}
}

} /* namespace inf */
