/* SPDX-License-Identifier: Apache-2.0 */
/* image.h - a JPEG file to what an ImageNet classifier reads, straight into its input memory. */
#ifndef INFCLASSIFY_IMAGE_H
#define INFCLASSIFY_IMAGE_H

#include <stddef.h>

#define IMAGE_SIDE   224u
#define IMAGE_FLOATS (3u * IMAGE_SIDE * IMAGE_SIDE)

/*
 * Decodes `path`, resizes its shorter side to 256 (bicubic with antialiasing), crops the centre 224 x 224, subtracts the
 * ImageNet mean and divides by its deviation. `to`: f32[3][224][224]. Returns 0, or a negative errno with one line in `error`.
 */
int image_load(const char *path, float *to, char *error, size_t error_bytes);

#endif /* INFCLASSIFY_IMAGE_H */
