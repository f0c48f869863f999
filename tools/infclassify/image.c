/* SPDX-License-Identifier: Apache-2.0 */
/*
 * image.c - libjpeg-turbo decodes, stb_image_resize resizes.
 *
 * The filter must be the one that the network was trained with, or probabilities drift: Pillow's bicubic is Catmull-Rom
 * (a = -0.5) whose support grows with the reduction. stb's CATMULLROM filter does the same.
 */
#define _GNU_SOURCE 1
#include "tools/infclassify/image.h"
#include <errno.h>
#include <setjmp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <jpeglib.h>

#define STB_IMAGE_RESIZE_IMPLEMENTATION
#define STB_IMAGE_RESIZE_STATIC
#include <stb_image_resize.h>

#define SHORTER_SIDE 256u
#define PIXELS_MAX   (1ull << 28) /* a header may claim 65535 x 65535 */

struct pixels {
	uint8_t *data; /* RGB, row by row */
	uint32_t width, height;
};

/* libjpeg's errors end in a jump; warnings of a file that is cut short are errors to us. */
struct jpeg_trap {
	struct jpeg_error_mgr manager;
	jmp_buf out;
	char text[JMSG_LENGTH_MAX];
};

static void on_error(j_common_ptr info)
{
	struct jpeg_trap *trap = (struct jpeg_trap *)info->err;

	trap->manager.format_message(info, trap->text);
	longjmp(trap->out, 1);
}

static void on_message(j_common_ptr info, int level)
{
	if (level < 0)
		on_error(info);
}

static int decode(FILE *file, struct pixels *pixels, char *error, size_t error_bytes)
{
	struct jpeg_decompress_struct info;
	struct jpeg_trap trap;

	memset(&info, 0, sizeof(info));
	info.err = jpeg_std_error(&trap.manager);
	trap.manager.error_exit = on_error;
	trap.manager.emit_message = on_message;
	if (setjmp(trap.out)) {
		snprintf(error, error_bytes, "not a whole JPEG file: %s", trap.text);
		jpeg_destroy_decompress(&info);
		return -EINVAL;
	}
	jpeg_create_decompress(&info);
	jpeg_stdio_src(&info, file);
	jpeg_read_header(&info, TRUE);
	info.out_color_space = JCS_RGB;
	jpeg_start_decompress(&info);
	if ((uint64_t)info.output_width * info.output_height > PIXELS_MAX) {
		snprintf(error, error_bytes, "%u x %u pixels are too many", info.output_width,
			 info.output_height);
		jpeg_destroy_decompress(&info);
		return -EFBIG;
	}
	pixels->width = info.output_width;
	pixels->height = info.output_height;
	pixels->data = malloc((size_t)info.output_width * info.output_height * 3);
	while (pixels->data && info.output_scanline < info.output_height) {
		JSAMPROW row = pixels->data + (size_t)info.output_scanline * info.output_width * 3;

		jpeg_read_scanlines(&info, &row, 1);
	}
	if (pixels->data)
		jpeg_finish_decompress(&info);
	jpeg_destroy_decompress(&info);
	return pixels->data ? 0 : -ENOMEM;
}

/* Shorter side to SHORTER_SIDE; the longer one in proportion, rounded as Python rounds. */
static int resize(struct pixels *pixels)
{
	uint32_t shorter = pixels->width < pixels->height ? pixels->width : pixels->height;
	double scale = (double)SHORTER_SIDE / shorter;
	struct pixels to = { .width = (uint32_t)(pixels->width * scale + 0.5),
			     .height = (uint32_t)(pixels->height * scale + 0.5) };

	if ((uint64_t)to.width * to.height > PIXELS_MAX)
		return -EFBIG;
	to.data = malloc((size_t)to.width * to.height * 3);
	if (!to.data)
		return -ENOMEM;
	if (!stbir_resize_uint8_generic(pixels->data, (int)pixels->width, (int)pixels->height, 0,
					to.data, (int)to.width, (int)to.height, 0, 3,
					STBIR_ALPHA_CHANNEL_NONE, 0, STBIR_EDGE_CLAMP,
					STBIR_FILTER_CATMULLROM, STBIR_COLORSPACE_LINEAR, NULL)) {
		free(to.data);
		return -ENOMEM;
	}
	free(pixels->data);
	*pixels = to;
	return 0;
}

/* Centre crop, channel by channel, normalised. */
static void normalise(const struct pixels *pixels, float *to)
{
	static const float mean[3] = { 0.485f, 0.456f, 0.406f },
			   deviation[3] = { 0.229f, 0.224f, 0.225f };
	uint32_t left = (pixels->width - IMAGE_SIDE) / 2, top = (pixels->height - IMAGE_SIDE) / 2;

	for (uint32_t c = 0; c < 3; c++) {
		for (uint32_t y = 0; y < IMAGE_SIDE; y++) {
			const uint8_t *row =
				pixels->data + ((size_t)(top + y) * pixels->width + left) * 3 + c;

			for (uint32_t x = 0; x < IMAGE_SIDE; x++)
				*to++ = ((float)row[3 * x] / 255.0f - mean[c]) / deviation[c];
		}
	}
}

int image_load(const char *path, float *to, char *error, size_t error_bytes)
{
	struct pixels pixels = { 0 };
	FILE *file = fopen(path, "rbe");
	int r;

	if (!file) {
		r = -errno;
		snprintf(error, error_bytes, "cannot open: %s", strerror(errno));
		return r;
	}
	r = decode(file, &pixels, error, error_bytes);
	fclose(file);
	if (!r) {
		r = resize(&pixels);
		if (r)
			snprintf(error, error_bytes, "%s",
				 r == -EFBIG ? "its sides are too different"
					     : "out of memory");
	}
	if (!r)
		normalise(&pixels, to);
	free(pixels.data);
	return r;
}
