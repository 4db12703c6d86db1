/* Decodes with libjpeg-turbo only the rows and columns that a view needs, and resizes as Pillow does.
 *
 * Entropy coding allows no jumps, so rows above the box are parsed, but not transformed; rows below are not even parsed.
 * Where the box is much larger than what it becomes, the inverse DCT itself shrinks it by 2, 4 or 8.
 *
 * Resizing is Pillow's separable filter, across first and then down, rounded to 8 bits in between, each weight a 16-bit
 * integer with as many binary places as fit. libjpeg gives pixels of four bytes (RGBX), which suits vector registers; the
 * way across makes them three, and mirrors them. Both ways have an AVX2 form and a plain one, which compute the same integers.
 */
#include "region.h"

#include <math.h>
#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <jpeglib.h>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

enum { LINES = 4 };           /* rows asked of libjpeg at once */
enum { SLACK = 64 };          /* bytes that vector loads may touch behind a buffer */
enum { MOST_PLACES = 22 };    /* binary places of a weight: 255 x 2^22 and rounding fit 32 bits */
/* The DCT shrinks a box by 2 from this many times its target on. It is another filter than Pillow's: the mean difference
 * over 200 ImageNet images resized to 64 pixels was 1.2 to 1.6 of 255 from 2 times on, 0.2 to 0.4 from 4, 0.01 to 0.03
 * from 6, and at 224 pixels nothing but 1 crop in 30 is so large. */
enum { SHRINKS_FROM = 6 };
enum { MOST_SIZE = 1 << 24 }; /* pixels: beyond any image; keeps all products in 64 bits */

typedef struct {
    void *memory;
    size_t bytes;
} Buffer;

/* The weights of one direction: output i is the sum of taps weights times inputs from starts[i] on. */
typedef struct {
    int count, taps, places;
    int64_t first, last; /* inputs that are needed at all: first to last - 1 */
    int64_t *starts;     /* (count) relative to `first` */
    int16_t *weights;    /* (count, taps), taps a multiple of what vectors take at once, zero where there are fewer */
    Buffer starts_room, weights_room, exact_room;
} Filter;

/* One direction of a resize: outputs from `from` on of a box that begins at input `begin` and is resized by `1 / scale`.
 * Inputs outside of the box, low to high - 1, do not exist. Antialiased: `reach` grows with the scale. */
typedef struct {
    double begin, scale, reach, narrowing; /* narrowing: 1 / how much the filter is stretched */
    int64_t low, high, from;
    bool bicubic, flip; /* flip: the last output comes first */
} Direction;

struct Scratch {
    struct jpeg_error_mgr errors; /* first, so that libjpeg's pointer to it is a pointer to the whole */
    jmp_buf escape;
    struct jpeg_decompress_struct jpeg;
    Filter across, down;
    Buffer file, lines, rows, wide;
};

static void *room(Buffer *buffer, size_t bytes)
{
    if (bytes + SLACK > buffer->bytes) {
        free(buffer->memory);
        buffer->bytes = bytes + bytes / 2 + SLACK;
        buffer->memory = calloc(1, buffer->bytes);
        if (buffer->memory == NULL)
            buffer->bytes = 0;
    }
    return buffer->memory;
}

/* ---- libjpeg's errors: back to where the image was begun, nothing on stderr ---- */

static void escape(j_common_ptr jpeg)
{
    longjmp(((Scratch *)jpeg->err)->escape, 1);
}

static void count_warning(j_common_ptr jpeg, int level)
{
    if (level < 0)
        jpeg->err->num_warnings++;
}

static void say_nothing(j_common_ptr jpeg)
{
    (void)jpeg;
}

Scratch *scratch_new(void)
{
    Scratch *volatile scratch = calloc(1, sizeof *scratch); /* longjmp leaves it alone */
    if (scratch == NULL)
        return NULL;
    scratch->jpeg.err = jpeg_std_error(&scratch->errors);
    scratch->errors.error_exit = escape;
    scratch->errors.emit_message = count_warning;
    scratch->errors.output_message = say_nothing;
    if (setjmp(scratch->escape)) {
        free(scratch);
        return NULL;
    }
    jpeg_create_decompress(&scratch->jpeg);
    return scratch;
}

void scratch_free(Scratch *scratch)
{
    jpeg_destroy_decompress(&scratch->jpeg);
    Buffer *buffers[] = {&scratch->file, &scratch->lines, &scratch->rows, &scratch->wide,
                         &scratch->across.starts_room, &scratch->across.weights_room, &scratch->across.exact_room,
                         &scratch->down.starts_room,   &scratch->down.weights_room,   &scratch->down.exact_room};
    for (size_t i = 0; i < sizeof buffers / sizeof *buffers; i++)
        free(buffers[i]->memory);
    free(scratch);
}

uint8_t *scratch_file(Scratch *scratch, size_t bytes)
{
    return room(&scratch->file, bytes);
}

/* ---- weights ---- */

static double triangle(double x)
{
    x = fabs(x);
    return x < 1 ? 1 - x : 0;
}

/* Keys 1981 with a = -1/2, Pillow's BICUBIC. */
static double cubic(double x)
{
    x = fabs(x);
    if (x < 1)
        return (1.5 * x - 2.5) * x * x + 1;
    return x < 2 ? ((-0.5 * x + 2.5) * x - 4) * x + 2 : 0;
}

/* The exact weights of output `i`: how many, into `exact`; they add up to 1. *first is the input of the first one. */
static int weigh(const Direction *along, int i, double *exact, int64_t *first)
{
    double middle = along->begin + ((double)(along->from + i) + 0.5) * along->scale, sum = 0;
    int64_t last = (int64_t)(middle + along->reach + 0.5);
    *first = (int64_t)(middle - along->reach + 0.5);
    *first = *first < along->low ? along->low : *first;
    last = last > along->high ? along->high : last;
    int count = (int)(last - *first);
    for (int t = 0; t < count; t++) {
        double distance = ((double)(*first + t) - middle + 0.5) * along->narrowing;
        sum += exact[t] = along->bicubic ? cubic(distance) : triangle(distance);
    }
    for (int t = 0; t < count; t++)
        exact[t] /= sum;
    return count;
}

/* Round the weights of every output, of which there is room for `most`, to as many binary places as 16 bits hold. What
 * rounding takes or gives goes to the largest weight of an output, so that a plain area stays as it is. */
static void round_weights(Filter *filter, const double *exact, int most, double largest)
{
    filter->places = MOST_PLACES;
    while (filter->places > 1 && largest * (1 << filter->places) > INT16_MAX - most)
        filter->places--;
    for (int i = 0; i < filter->count; i++, exact += most) {
        int16_t *weights = filter->weights + (size_t)i * filter->taps;
        int heaviest = 0, left = 1 << filter->places;
        for (int t = 0; t < filter->taps; t++) {
            weights[t] = (int16_t)lrint(exact[t] * (1 << filter->places));
            left -= weights[t];
            heaviest = exact[t] > exact[heaviest] ? t : heaviest;
        }
        weights[heaviest] += (int16_t)left;
    }
}

static Direction direction(double begin, double length, int64_t size, int64_t from, bool bicubic)
{
    double scale = length / (double)size, stretch = scale > 1 ? scale : 1;
    return (Direction){begin, scale, (bicubic ? 2 : 1) * stretch, 1 / stretch, (int64_t)floor(begin),
                       (int64_t)ceil(begin + length), from, bicubic, false};
}

/* The filter of `count` outputs along one direction, its taps a multiple of `step`. False if there is no memory. */
static bool prepare(Filter *filter, const Direction *along, int count, int step)
{
    int most = ((int)ceil(along->reach) * 2 + 1 + 3) & ~3, taps = 1;
    size_t weights = (size_t)count * most;
    filter->count = count;
    filter->starts = room(&filter->starts_room, count * sizeof *filter->starts);
    filter->weights = room(&filter->weights_room, weights * sizeof *filter->weights);
    double *exact = room(&filter->exact_room, weights * sizeof *exact), largest = 0;
    if (filter->starts == NULL || filter->weights == NULL || exact == NULL)
        return false;
    memset(exact, 0, weights * sizeof *exact);
    filter->first = INT64_MAX;
    filter->last = 0;
    for (int i = 0; i < count; i++) {
        double *own = exact + (size_t)i * most;
        int have = weigh(along, along->flip ? count - 1 - i : i, own, &filter->starts[i]);
        int64_t first = filter->starts[i], last = first + have;
        filter->first = first < filter->first ? first : filter->first;
        filter->last = last > filter->last ? last : filter->last;
        taps = have > taps ? have : taps;
        for (int t = 0; t < have; t++)
            largest = own[t] > largest ? own[t] : largest;
    }
    for (int i = 0; i < count; i++)
        filter->starts[i] -= filter->first;
    filter->taps = (taps + step - 1) / step * step;
    round_weights(filter, exact, most, largest);
    return true;
}

static inline uint8_t rounded(int32_t sum, int places)
{
    int32_t value = (sum + (1 << (places - 1))) >> places;
    return value < 0 ? 0 : value > 255 ? 255 : (uint8_t)value;
}

/* ---- across: one row of RGBX pixels becomes filter->count RGB pixels ---- */

static void across_plain(const Filter *filter, const int16_t *wide, const uint8_t *line, uint8_t *row)
{
    (void)wide;
    for (int i = 0; i < filter->count; i++) {
        const uint8_t *pixels = line + 4 * filter->starts[i];
        const int16_t *weights = filter->weights + (size_t)i * filter->taps;
        int32_t sums[3] = {0};
        for (int t = 0; t < filter->taps; t++)
            for (int c = 0; c < 3; c++)
                sums[c] += weights[t] * pixels[4 * t + c];
        for (int c = 0; c < 3; c++)
            row[3 * i + c] = rounded(sums[c], filter->places);
    }
}

/* ---- down: `taps` rows become one, `bytes` wide ---- */

static void down_plain(const int16_t *weights, int taps, int places, const uint8_t *rows, size_t stride, size_t bytes,
                       uint8_t *out)
{
    for (size_t x = 0; x < bytes; x++) {
        int32_t sum = 0;
        for (int t = 0; t < taps; t++)
            sum += weights[t] * rows[t * stride + x];
        out[x] = rounded(sum, places);
    }
}

#if defined(__x86_64__)
#define AVX2 __attribute__((target("avx2")))

/* Weights as across_avx2 takes them: for each four taps (w0 w1) x 4, (w2 w3) x 4. */
static void widen(const Filter *filter, int16_t *wide)
{
    for (int i = 0; i < filter->count * filter->taps; i += 2)
        for (int c = 0; c < 4; c++) {
            *wide++ = filter->weights[i];
            *wide++ = filter->weights[i + 1];
        }
}

/* Four pixels of a row: from `starts`, by `wide` weights of `taps` a pixel. Writes 16 bytes, of which 12 are meant. */
AVX2 static inline void four_avx2(const int64_t *starts, const int16_t *wide, int taps, int places_count,
                                  const uint8_t *line, uint8_t *row)
{
    /* Channels of neighbouring pixels side by side: r0 r1 g0 g1 b0 b1 x0 x1, r2 r3 ... */
    const __m128i pairs = _mm_setr_epi8(0, 4, 1, 5, 2, 6, 3, 7, 8, 12, 9, 13, 10, 14, 11, 15);
    const __m128i rgb = _mm_setr_epi8(0, 1, 2, 4, 5, 6, 8, 9, 10, 12, 13, 14, -1, -1, -1, -1);
    const __m256i half = _mm256_set1_epi32(1 << (places_count - 1));
    const __m128i places = _mm_cvtsi32_si128(places_count);
    __m256i sums[4];
    for (int k = 0; k < 4; k++) {
        const uint8_t *pixels = line + 4 * starts[k];
        sums[k] = _mm256_setzero_si256();
        for (int t = 0; t < taps; t += 4, wide += 16) {
            __m128i four = _mm_shuffle_epi8(_mm_loadu_si128((const __m128i *)(pixels + 4 * t)), pairs);
            __m256i weights = _mm256_loadu_si256((const __m256i *)wide);
            sums[k] = _mm256_add_epi32(sums[k], _mm256_madd_epi16(_mm256_cvtepu8_epi16(four), weights));
        }
    }
    __m256i ab = _mm256_add_epi32(_mm256_permute2x128_si256(sums[0], sums[1], 0x20),
                                  _mm256_permute2x128_si256(sums[0], sums[1], 0x31));
    __m256i cd = _mm256_add_epi32(_mm256_permute2x128_si256(sums[2], sums[3], 0x20),
                                  _mm256_permute2x128_si256(sums[2], sums[3], 0x31));
    ab = _mm256_sra_epi32(_mm256_add_epi32(ab, half), places);
    cd = _mm256_sra_epi32(_mm256_add_epi32(cd, half), places);
    __m256i words = _mm256_packs_epi32(ab, cd), bytes = _mm256_packus_epi16(words, words); /* a c a c, b d b d */
    __m128i abcd = _mm_unpacklo_epi32(_mm256_castsi256_si128(bytes), _mm256_extracti128_si256(bytes, 1));
    _mm_storeu_si128((__m128i *)row, _mm_shuffle_epi8(abcd, rgb));
}

AVX2 static void across_avx2(const Filter *filter, const int16_t *wide, const uint8_t *line, uint8_t *row)
{
    int count = filter->count, taps = filter->taps, places = filter->places;
    if (count < 4) {
        across_plain(filter, wide, line, row);
        return;
    }
    for (int i = 0; i < count; i += 4) {
        int at = i + 4 <= count ? i : count - 4; /* the last four may have been made in part: they are made again */
        const int16_t *own = wide + 4 * (size_t)at * taps;
        if (taps == 4) /* written out by the compiler: most crops are shrunk by less than 2 */
            four_avx2(filter->starts + at, own, 4, places, line, row + 3 * at);
        else
            four_avx2(filter->starts + at, own, taps, places, line, row + 3 * at);
    }
}

AVX2 static void down_avx2(const int16_t *weights, int taps, int places_count, const uint8_t *rows, size_t stride,
                           size_t bytes, uint8_t *out)
{
    const __m256i half = _mm256_set1_epi32(1 << (places_count - 1)), zero = _mm256_setzero_si256();
    const __m128i places = _mm_cvtsi32_si128(places_count);
    if (bytes < 32) {
        down_plain(weights, taps, places_count, rows, stride, bytes, out);
        return;
    }
    for (size_t i = 0; i < bytes; i += 32) {
        size_t x = i + 32 <= bytes ? i : bytes - 32; /* as above */
        __m256i sums[4] = {half, half, half, half};
        for (int t = 0; t < taps; t += 2) {
            __m256i upper = _mm256_loadu_si256((const __m256i *)(rows + t * stride + x));
            __m256i lower = _mm256_loadu_si256((const __m256i *)(rows + (t + 1) * stride + x));
            __m256i low = _mm256_unpacklo_epi8(upper, lower), high = _mm256_unpackhi_epi8(upper, lower);
            int32_t both;
            memcpy(&both, weights + t, 4);
            __m256i pair = _mm256_set1_epi32(both);
            sums[0] = _mm256_add_epi32(sums[0], _mm256_madd_epi16(_mm256_unpacklo_epi8(low, zero), pair));
            sums[1] = _mm256_add_epi32(sums[1], _mm256_madd_epi16(_mm256_unpackhi_epi8(low, zero), pair));
            sums[2] = _mm256_add_epi32(sums[2], _mm256_madd_epi16(_mm256_unpacklo_epi8(high, zero), pair));
            sums[3] = _mm256_add_epi32(sums[3], _mm256_madd_epi16(_mm256_unpackhi_epi8(high, zero), pair));
        }
        for (int k = 0; k < 4; k++)
            sums[k] = _mm256_sra_epi32(sums[k], places);
        __m256i low = _mm256_packs_epi32(sums[0], sums[1]), high = _mm256_packs_epi32(sums[2], sums[3]);
        _mm256_storeu_si256((__m256i *)(out + x), _mm256_packus_epi16(low, high));
    }
}

static bool has_avx2(void)
{
    return __builtin_cpu_supports("avx2");
}
#else
static void widen(const Filter *filter, int16_t *wide)
{
    (void)filter;
    (void)wide;
}
#define across_avx2 across_plain
#define down_avx2 down_plain

static bool has_avx2(void)
{
    return false;
}
#endif

/* ---- one image ---- */

bool region_interrupted(const uint8_t *next, size_t bytes)
{
    const uint8_t *end = next + bytes;
    while ((next = memchr(next, 0xFF, (size_t)(end - next))) != NULL && ++next < end)
        if (*next != 0 && *next != 0xFF && (*next < 0xD0 || *next > 0xD7))
            return *next != JPEG_EOI;
    return true;
}

/* libjpeg keeps tables for files that come without; here no file may be decoded with another's. */
static void forget_tables(struct jpeg_decompress_struct *jpeg)
{
    for (int i = 0; i < NUM_QUANT_TBLS; i++)
        if (jpeg->quant_tbl_ptrs[i] != NULL)
            memset(jpeg->quant_tbl_ptrs[i]->quantval, 0, sizeof jpeg->quant_tbl_ptrs[i]->quantval);
    for (int i = 0; i < NUM_HUFF_TBLS; i++) {
        if (jpeg->dc_huff_tbl_ptrs[i] != NULL)
            memset(jpeg->dc_huff_tbl_ptrs[i]->bits, 0, sizeof jpeg->dc_huff_tbl_ptrs[i]->bits);
        if (jpeg->ac_huff_tbl_ptrs[i] != NULL)
            memset(jpeg->ac_huff_tbl_ptrs[i]->bits, 0, sizeof jpeg->ac_huff_tbl_ptrs[i]->bits);
    }
}

static bool has_codes(JHUFF_TBL *const *tables, int number)
{
    unsigned codes = 0;
    for (int length = 1; number >= 0 && number < NUM_HUFF_TBLS && tables[number] != NULL && length <= 16; length++)
        codes += tables[number]->bits[length];
    return codes > 0;
}

/* Whether the tables that the first scan needs were in this file; a progressive one brings its Huffman tables later. */
static bool has_tables(const struct jpeg_decompress_struct *jpeg)
{
    for (int i = 0; i < jpeg->num_components; i++) {
        const jpeg_component_info *component = &jpeg->comp_info[i];
        int number = component->quant_tbl_no;
        if (number < 0 || number >= NUM_QUANT_TBLS || jpeg->quant_tbl_ptrs[number] == NULL ||
            jpeg->quant_tbl_ptrs[number]->quantval[0] == 0)
            return false;
        if (!jpeg->progressive_mode && (!has_codes(jpeg->dc_huff_tbl_ptrs, component->dc_tbl_no) ||
                                        !has_codes(jpeg->ac_huff_tbl_ptrs, component->ac_tbl_no)))
            return false;
    }
    return true;
}

/* Read the header; FILLED if libjpeg makes RGB of it as Pillow would and the view lies in it. */
static int begin(Scratch *scratch, const uint8_t *file, size_t bytes, const View *view)
{
    struct jpeg_decompress_struct *jpeg = &scratch->jpeg;
    scratch->errors.num_warnings = 0;
    forget_tables(jpeg);
    jpeg_mem_src(jpeg, file, (unsigned long)bytes);
    if (jpeg_read_header(jpeg, TRUE) != JPEG_HEADER_OK || jpeg->data_precision != 8 || jpeg->arith_code ||
        !has_tables(jpeg))
        return ODD;
    J_COLOR_SPACE space = jpeg->jpeg_color_space;
    if (space != JCS_GRAYSCALE && space != JCS_YCbCr && space != JCS_RGB)
        return ODD;
    /* Of several scans libjpeg reads all before it gives a pixel. */
    if (!jpeg->progressive_mode && region_interrupted(jpeg->src->next_input_byte, jpeg->src->bytes_in_buffer))
        return DAMAGED;
    if (view->left < 0 || view->top < 0 || view->width < 1 || view->height < 1 || view->size_w < 1 || view->size_h < 1)
        return ODD;
    if (view->width > MOST_SIZE || view->height > MOST_SIZE || view->size_w > MOST_SIZE || view->size_h > MOST_SIZE)
        return ODD;
    if (view->left + view->width > jpeg->image_width || view->top + view->height > jpeg->image_height)
        return ODD;
    jpeg->out_color_space = JCS_EXT_RGBX;
    jpeg->scale_num = 1;
    jpeg->scale_denom = 1;
    while (jpeg->scale_denom < 8 && view->width >= SHRINKS_FROM * jpeg->scale_denom * view->size_w &&
           view->height >= SHRINKS_FROM * jpeg->scale_denom * view->size_h)
        jpeg->scale_denom *= 2;
    return FILLED;
}

/* Have libjpeg give columns `*from` to `to - 1` only; `*from` becomes the first that it really gives. A column more at
 * each end is asked for, since the outermost ones are interpolated as if the image ended there. */
static void crop_columns(struct jpeg_decompress_struct *jpeg, int64_t *from, int64_t to)
{
    JDIMENSION left = *from > 0 ? (JDIMENSION)*from - 1 : 0;
    JDIMENSION right = to + 1 < jpeg->output_width ? (JDIMENSION)to + 1 : jpeg->output_width;
    JDIMENSION width = right - left;
    *from = 0;
    if (width < jpeg->output_width) {
        jpeg_crop_scanline(jpeg, &left, &width);
        *from = left;
    }
}

/* Rows `from` to `to - 1`, each of which `take` gets if it is not NULL. DAMAGED if libjpeg warned. */
typedef void (*Take)(Scratch *scratch, const uint8_t *line, int64_t row);

static int read_rows(Scratch *scratch, int64_t from, int64_t to, Take take)
{
    struct jpeg_decompress_struct *jpeg = &scratch->jpeg;
    size_t stride = (size_t)jpeg->output_width * 4 + SLACK;
    uint8_t *lines = room(&scratch->lines, LINES * stride);
    if (lines == NULL)
        return NO_MEMORY;
    JSAMPROW pointers[LINES];
    for (int i = 0; i < LINES; i++)
        pointers[i] = lines + i * stride;
    if (from > 0 && jpeg_skip_scanlines(jpeg, (JDIMENSION)from) != (JDIMENSION)from)
        return DAMAGED;
    for (int64_t row = from; row < to;) {
        JDIMENSION wanted = to - row < LINES ? (JDIMENSION)(to - row) : LINES;
        JDIMENSION got = jpeg_read_scanlines(jpeg, pointers, wanted);
        if (got == 0)
            return DAMAGED;
        for (JDIMENSION i = 0; take != NULL && i < got; i++)
            take(scratch, pointers[i], row - from + i);
        row += got;
    }
    return scratch->errors.num_warnings ? DAMAGED : FILLED;
}

static size_t row_stride(const Filter *across)
{
    return ((size_t)across->count * 3 + 31) & ~(size_t)31;
}

static void take_across(Scratch *scratch, const uint8_t *line, int64_t row)
{
    const Filter *filter = &scratch->across;
    uint8_t *target = (uint8_t *)scratch->rows.memory + row * row_stride(filter);
    (has_avx2() ? across_avx2 : across_plain)(filter, scratch->wide.memory, line, target);
}

/* The part [*from, *from + *count) of a window of `side` that lies on `size` pixels which begin at -corner. */
static void visible(int64_t corner, int64_t size, int side, int64_t *from, int64_t *count)
{
    int64_t to = size - corner < side ? size - corner : side;
    *from = corner < 0 ? -corner : 0;
    *count = to > *from ? to - *from : 0;
}

static void write_rows(Scratch *scratch, int side, int64_t column, int64_t row, uint8_t *out)
{
    const Filter *across = &scratch->across, *down = &scratch->down;
    size_t stride = row_stride(across), bytes = (size_t)across->count * 3;
    bool fast = has_avx2();
    for (int i = 0; i < down->count; i++) {
        const uint8_t *rows = (const uint8_t *)scratch->rows.memory + down->starts[i] * stride;
        const int16_t *weights = down->weights + (size_t)i * down->taps;
        uint8_t *line = out + ((row + i) * side + column) * 3;
        (fast ? down_avx2 : down_plain)(weights, down->taps, down->places, rows, stride, bytes, line);
    }
}

static int show(Scratch *scratch, const uint8_t *file, size_t bytes, const View *view, bool bicubic, int side,
                uint8_t *out)
{
    struct jpeg_decompress_struct *jpeg = &scratch->jpeg;
    Filter *across = &scratch->across, *down = &scratch->down;
    int64_t column, columns, row, rows;
    int status = begin(scratch, file, bytes, view);
    if (status != FILLED)
        return status;
    visible(view->corner_x, view->size_w, side, &column, &columns);
    visible(view->corner_y, view->size_h, side, &row, &rows);
    if (columns < side || rows < side)
        memset(out, 0, (size_t)side * side * 3);
    if (columns == 0 || rows == 0)
        return FILLED;
    double shrink = jpeg->scale_denom;
    Direction x = direction(view->left / shrink, view->width / shrink, view->size_w, view->corner_x + column, bicubic);
    Direction y = direction(view->top / shrink, view->height / shrink, view->size_h, view->corner_y + row, bicubic);
    x.flip = view->flip != 0;
    if (!prepare(across, &x, (int)columns, 4) || !prepare(down, &y, (int)rows, 2))
        return NO_MEMORY;
    size_t weights = (size_t)across->count * across->taps, stride = row_stride(across);
    int16_t *wide = room(&scratch->wide, 4 * weights * sizeof(int16_t));
    /* Rows of weight zero behind the last are multiplied too. */
    if (wide == NULL || room(&scratch->rows, (size_t)(down->last - down->first + down->taps) * stride) == NULL)
        return NO_MEMORY;
    widen(across, wide);
    jpeg_start_decompress(jpeg);
    int64_t from = across->first, to = across->last;
    crop_columns(jpeg, &from, to);
    for (int i = 0; i < across->count; i++)
        across->starts[i] += across->first - from;
    /* A tap of weight zero may lie up to `taps` pixels behind the row. */
    if (room(&scratch->lines, LINES * ((size_t)jpeg->output_width * 4 + SLACK) + 4 * (size_t)across->taps) == NULL)
        return NO_MEMORY;
    status = read_rows(scratch, down->first, down->last, take_across);
    if (status == FILLED)
        write_rows(scratch, side, view->flip ? side - column - columns : column, row, out);
    return status;
}

int region_show(Scratch *scratch, const uint8_t *file, size_t bytes, const View *view, bool bicubic, int side,
                uint8_t *out)
{
    volatile int status = DAMAGED; /* longjmp leaves it alone */
    if (setjmp(scratch->escape) == 0)
        status = show(scratch, file, bytes, view, bicubic, side, out);
    jpeg_abort_decompress(&scratch->jpeg);
    return status;
}

static int decode(Scratch *scratch, const uint8_t *file, size_t bytes, const View *view, bool whole)
{
    int status = begin(scratch, file, bytes, view);
    if (status != FILLED)
        return status;
    if (whole)
        scratch->jpeg.scale_denom = 1;
    jpeg_start_decompress(&scratch->jpeg);
    int64_t shrink = scratch->jpeg.scale_denom, from = view->left / shrink;
    if (whole)
        return read_rows(scratch, 0, scratch->jpeg.output_height, NULL);
    crop_columns(&scratch->jpeg, &from, (view->left + view->width) / shrink);
    return read_rows(scratch, view->top / shrink, (view->top + view->height) / shrink, NULL);
}

int region_decode(Scratch *scratch, const uint8_t *file, size_t bytes, const View *view, bool whole)
{
    volatile int status = DAMAGED; /* longjmp leaves it alone */
    if (setjmp(scratch->escape) == 0)
        status = decode(scratch, file, bytes, view, whole);
    jpeg_abort_decompress(&scratch->jpeg);
    return status;
}

/* ---- crc32: 64 bytes at a time by carry-less multiplication where the processor can (Gopal et al. 2009, "Fast CRC
 * computation for generic polynomials using PCLMULQDQ"), else 8 at a time (Kounavis and Berry 2005) ---- */

static uint32_t crc_table[8][256];

void crc32_prepare(void)
{
    for (uint32_t i = 0; i < 256; i++) {
        uint32_t remainder = i;
        for (int bit = 0; bit < 8; bit++)
            remainder = remainder >> 1 ^ (remainder & 1 ? 0xEDB88320u : 0);
        crc_table[0][i] = remainder;
    }
    for (uint32_t i = 0; i < 256; i++)
        for (int k = 1; k < 8; k++)
            crc_table[k][i] = crc_table[k - 1][i] >> 8 ^ crc_table[0][crc_table[k - 1][i] & 0xFF];
}

/* The remainder `crc` taken on over more data; neither is inverted. */
static uint32_t crc_sliced(uint32_t crc, const uint8_t *data, size_t bytes)
{
    for (; bytes >= 8; bytes -= 8, data += 8) {
        uint32_t low = crc ^ (data[0] | data[1] << 8 | data[2] << 16 | (uint32_t)data[3] << 24);
        crc = crc_table[7][low & 0xFF] ^ crc_table[6][low >> 8 & 0xFF] ^ crc_table[5][low >> 16 & 0xFF] ^
              crc_table[4][low >> 24] ^ crc_table[3][data[4]] ^ crc_table[2][data[5]] ^ crc_table[1][data[6]] ^
              crc_table[0][data[7]];
    }
    for (; bytes > 0; bytes--, data++)
        crc = crc >> 8 ^ crc_table[0][(crc ^ *data) & 0xFF];
    return crc;
}

#if defined(__x86_64__)
#define CLMUL __attribute__((target("pclmul,sse4.1")))

/* 128 bits moved on over as many bits as the powers in `by` say, and added to what is found there. */
CLMUL static __m128i fold(__m128i bits, __m128i by, __m128i found)
{
    __m128i low = _mm_clmulepi64_si128(bits, by, 0x00), high = _mm_clmulepi64_si128(bits, by, 0x11);
    return _mm_xor_si128(_mm_xor_si128(low, high), found);
}

/* As crc_sliced, for 64 bytes or more; sets *taken to how many bytes it took, a multiple of 16. The 128 bits that are
 * left have the same remainder as all that was folded into them, and go through the table. */
CLMUL static uint32_t crc_folded(uint32_t crc, const uint8_t *data, size_t bytes, size_t *taken)
{
    const __m128i *blocks = (const __m128i *)data;
    const __m128i far = _mm_set_epi64x(0x1c6e41596, 0x154442bd4);  /* x^(512 - 32), x^(512 + 32) mod P, reflected */
    const __m128i near = _mm_set_epi64x(0x0ccaa009e, 0x1751997d0); /* x^(128 - 32), x^(128 + 32) */
    __m128i lanes[4];
    for (int i = 0; i < 4; i++)
        lanes[i] = _mm_loadu_si128(blocks + i);
    lanes[0] = _mm_xor_si128(lanes[0], _mm_cvtsi32_si128((int)crc));
    size_t block = 4, count = bytes / 16;
    for (; block + 4 <= count; block += 4)
        for (int i = 0; i < 4; i++)
            lanes[i] = fold(lanes[i], far, _mm_loadu_si128(blocks + block + i));
    __m128i all = lanes[0];
    for (int i = 1; i < 4; i++)
        all = fold(all, near, lanes[i]);
    for (; block < count; block++)
        all = fold(all, near, _mm_loadu_si128(blocks + block));
    uint8_t left[16];
    _mm_storeu_si128((__m128i *)left, all);
    *taken = block * 16;
    return crc_sliced(0, left, 16);
}

uint32_t crc32_of(const uint8_t *data, size_t bytes)
{
    uint32_t crc = 0xFFFFFFFFu;
    size_t taken = 0;
    if (bytes >= 64 && __builtin_cpu_supports("pclmul"))
        crc = crc_folded(crc, data, bytes, &taken);
    return ~crc_sliced(crc, data + taken, bytes - taken);
}
#else
uint32_t crc32_of(const uint8_t *data, size_t bytes)
{
    return ~crc_sliced(0xFFFFFFFFu, data, bytes);
}
#endif
