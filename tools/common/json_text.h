/* SPDX-License-Identifier: Apache-2.0 */
/* json_text.h - any bytes as a JSON string. */
#ifndef TOOLS_COMMON_JSON_TEXT_H
#define TOOLS_COMMON_JSON_TEXT_H

#include <jansson.h>

/* `text` itself where it is UTF-8 and harms no terminal; else with each byte that is no printable ASCII written as \xNN.
 * A new reference; NULL when out of memory. */
json_t *json_text(const char *text);

#endif /* TOOLS_COMMON_JSON_TEXT_H */
