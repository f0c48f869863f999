/* SPDX-License-Identifier: Apache-2.0 */
#include "broker/cuda/image.h"

#ifdef INF_KERNELS_FATBIN
/* .incbin: nothing that a compiler has to parse. In the section where cuobjdump looks for it. */
__asm__(".section .nv_fatbin, \"a\"\n"
	".balign 64\n"
	".global inf_kernels_image\n"
	".hidden inf_kernels_image\n"
	"inf_kernels_image:\n"
	".incbin \"" INF_KERNELS_FATBIN "\"\n"
	".previous\n");
#else
const unsigned char inf_kernels_image[] = "kernels: built without nvcc (make WITH_CUDA=1)";
#endif
