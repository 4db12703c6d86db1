/* What one image of a batch shows: decoded from a JPEG only where it is seen, resized, cut out, mirrored. */
#ifndef REGION_H
#define REGION_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* A row of data.plan.Views: the box is cut out of the image and resized to size_w x size_h; of that the square window at
 * the corner is shown, zero where it reaches beyond, and mirrored if `flip`. Pixels. */
typedef struct {
    int64_t left, top, width, height, size_w, size_h, corner_x, corner_y, flip;
} View;

/* Why an image was not filled. All but FILLED are left to Pillow, which then fills it or says what is wrong. */
enum { FILLED = 0, LEFT = 1, UNREADABLE = 2, CHECKSUM = 3, ODD = 4, DAMAGED = 5, NO_MEMORY = 6 };

/* The memory of one thread: a decompressor and buffers that grow with the images. */
typedef struct Scratch Scratch;

Scratch *scratch_new(void);
void scratch_free(Scratch *scratch);

/* Room for the bytes of a file; NULL if there is no memory. */
uint8_t *scratch_file(Scratch *scratch, size_t bytes);

/* Fill `out`, (side, side, 3) bytes, with what `view` shows of a JPEG. FILLED, or why not. */
int region_show(Scratch *scratch, const uint8_t *jpeg, size_t bytes, const View *view, bool bicubic, int side,
                uint8_t *out);

/* Decode the rows and columns of the view's box, or the whole image, and throw them away: the limits of a benchmark. */
int region_decode(Scratch *scratch, const uint8_t *jpeg, size_t bytes, const View *view, bool whole);

/* Whether in the last scan of a JPEG, given from there on, a marker stands that is not its end: a decoder of the whole image
 * stumbles there, one that stops below a box may not. */
bool region_interrupted(const uint8_t *scan, size_t bytes);

/* zlib's crc32. Call crc32_prepare once before. */
void crc32_prepare(void);
uint32_t crc32_of(const uint8_t *data, size_t bytes);

#endif
