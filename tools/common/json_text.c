/* SPDX-License-Identifier: Apache-2.0 */
/* json_text.c - file names and what clients call themselves may be any bytes, JSON is UTF-8. */
#include "tools/common/json_text.h"
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Of all that a terminal obeys, JSON escapes what is below a blank; DEL and U+0080 to U+009F stand in it as they are. */
static bool harms_terminals(const char *text)
{
	for (; *text; text++)
		if (*text == 0x7f || (text[0] == '\xc2' && (unsigned char)text[1] >> 5 == 4))
			return true;
	return false;
}

json_t *json_text(const char *text)
{
	json_t *string = harms_terminals(text) ? NULL : json_string(text);
	char *escaped, *at;

	if (string)
		return string;
	escaped = at = malloc(4 * strlen(text) + 1);
	if (!escaped)
		return NULL;
	for (; *text; text++)
		at += *text >= ' ' && *text <= '~'
			      ? (*at = *text, 1)
			      : snprintf(at, 5, "\\x%02x", (unsigned char)*text);
	*at = '\0';
	string = json_string(escaped);
	free(escaped);
	return string;
}
