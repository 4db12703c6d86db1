/* The Python side of region.c: a type `Decoder` whose threads fill batches without the GIL.
 *
 * All threads take images from the oldest batch that has any left, so while the last images of one batch are in work
 * the next one has begun: several Python threads may call `render` at once, and should.
 */
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <unistd.h>

#include "region.h"

typedef struct {
    int64_t offset, bytes, crc32;
} Place;

typedef struct Job {
    Py_ssize_t count, next, left; /* images; the next to take; how many are not finished */
    PyObject *encoded;            /* tuple of bytes or None; NULL: read from `file` at `places` */
    int file;
    const Place *places;
    const View *views;
    bool bicubic, decode_only, whole;
    int side;
    uint8_t *pixels;
    int32_t *status; /* images that have FILLED here are taken up */
    pthread_cond_t done;
    struct Job *following;
} Job;

typedef struct {
    PyObject_HEAD
    pthread_mutex_t lock;
    pthread_cond_t work;
    Job *oldest;
    bool ending;
    pid_t process; /* threads do not survive a fork */
    int threads;
    pthread_t *ids;
} Decoder;

/* ---- the threads ---- */

static int fill(Job *job, Py_ssize_t i, Scratch *scratch)
{
    const uint8_t *file;
    size_t bytes;
    if (job->encoded != NULL) {
        PyObject *encoded = PyTuple_GET_ITEM(job->encoded, i); /* held by the caller; its bytes do not move */
        if (encoded == Py_None)
            return LEFT;
        file = (const uint8_t *)PyBytes_AS_STRING(encoded);
        bytes = (size_t)PyBytes_GET_SIZE(encoded);
    } else {
        const Place *place = &job->places[i];
        bytes = (size_t)place->bytes;
        uint8_t *memory = scratch_file(scratch, bytes);
        if (memory == NULL)
            return NO_MEMORY;
        for (size_t have = 0; have < bytes;) {
            ssize_t got = pread(job->file, memory + have, bytes - have, (off_t)(place->offset + (int64_t)have));
            if (got < 0 && errno == EINTR)
                continue;
            if (got <= 0)
                return UNREADABLE;
            have += (size_t)got;
        }
        if (crc32_of(memory, bytes) != (uint32_t)place->crc32)
            return CHECKSUM;
        file = memory;
    }
    if (job->decode_only)
        return region_decode(scratch, file, bytes, &job->views[i], job->whole);
    uint8_t *out = job->pixels + (size_t)i * job->side * job->side * 3;
    return region_show(scratch, file, bytes, &job->views[i], job->bicubic, job->side, out);
}

/* Wait for an image to fill; NULL when the decoder ends. */
static Job *take(Decoder *self, Py_ssize_t *i)
{
    while (self->oldest == NULL && !self->ending)
        pthread_cond_wait(&self->work, &self->lock);
    Job *job = self->ending ? NULL : self->oldest;
    if (job != NULL) {
        *i = job->next++;
        if (job->next == job->count)
            self->oldest = job->following;
    }
    return job;
}

static void *run(void *argument)
{
    Decoder *self = argument;
    Scratch *scratch = scratch_new();
    Py_ssize_t i;
    Job *job;
    pthread_mutex_lock(&self->lock);
    while ((job = take(self, &i)) != NULL) {
        pthread_mutex_unlock(&self->lock);
        if (job->status[i] == FILLED)
            job->status[i] = scratch != NULL ? fill(job, i, scratch) : NO_MEMORY;
        pthread_mutex_lock(&self->lock);
        if (--job->left == 0)
            pthread_cond_signal(&job->done);
    }
    pthread_mutex_unlock(&self->lock);
    if (scratch != NULL)
        scratch_free(scratch);
    return NULL;
}

/* Queue a job behind the others and wait until it is done. */
static void carry_out(Decoder *self, Job *job)
{
    pthread_cond_init(&job->done, NULL);
    pthread_mutex_lock(&self->lock);
    Job **end = &self->oldest;
    while (*end != NULL)
        end = &(*end)->following;
    *end = job;
    pthread_cond_broadcast(&self->work);
    while (job->left > 0)
        pthread_cond_wait(&job->done, &self->lock);
    pthread_mutex_unlock(&self->lock);
    pthread_cond_destroy(&job->done);
}

/* ---- the Python type ---- */

static void stop(Decoder *self)
{
    if (self->process == getpid()) {
        pthread_mutex_lock(&self->lock);
        self->ending = true;
        pthread_cond_broadcast(&self->work);
        pthread_mutex_unlock(&self->lock);
        Py_BEGIN_ALLOW_THREADS
        for (int i = 0; i < self->threads; i++)
            pthread_join(self->ids[i], NULL);
        Py_END_ALLOW_THREADS
    }
    PyMem_Free(self->ids);
    self->ids = NULL;
    self->threads = 0;
}

static void Decoder_dealloc(Decoder *self)
{
    stop(self);
    PyTypeObject *type = Py_TYPE(self);
    type->tp_free((PyObject *)self);
    Py_DECREF(type);
}

static PyObject *Decoder_new(PyTypeObject *type, PyObject *args, PyObject *keywords)
{
    static char *names[] = {"threads", NULL};
    int threads;
    if (!PyArg_ParseTupleAndKeywords(args, keywords, "i", names, &threads))
        return NULL;
    if (threads < 1 || threads > 1024)
        return PyErr_Format(PyExc_ValueError, "threads: %d, expected 1 to 1024", threads);
    Decoder *self = (Decoder *)type->tp_alloc(type, 0);
    if (self == NULL)
        return NULL;
    pthread_mutex_init(&self->lock, NULL);
    pthread_cond_init(&self->work, NULL);
    self->process = getpid();
    self->ids = PyMem_Calloc((size_t)threads, sizeof *self->ids);
    sigset_t all, before; /* signals are for Python's main thread */
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    while (self->ids != NULL && self->threads < threads &&
           pthread_create(&self->ids[self->threads], NULL, run, self) == 0)
        self->threads++;
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (self->threads < threads) {
        Py_DECREF(self);
        return PyErr_Format(PyExc_RuntimeError, "%d threads cannot be started", threads);
    }
    return (PyObject *)self;
}

/* A C-contiguous array of `count` items of `bytes` bytes; a ValueError that names it if it is something else. */
static bool array(PyObject *object, const char *name, Py_ssize_t count, Py_ssize_t bytes, bool writable, Py_buffer *found)
{
    if (PyObject_GetBuffer(object, found, PyBUF_C_CONTIGUOUS | (writable ? PyBUF_WRITABLE : 0)) < 0)
        return false;
    if (found->len == count * bytes)
        return true;
    PyErr_Format(PyExc_ValueError, "%s: %zd bytes, expected %zd", name, found->len, count * bytes);
    PyBuffer_Release(found);
    return false;
}

/* `encoded` as a tuple of `count` bytes and Nones; NULL with an error set if it is something else. */
static PyObject *tuple_of_bytes(PyObject *encoded, Py_ssize_t count)
{
    PyObject *tuple = PySequence_Tuple(encoded);
    if (tuple == NULL)
        return NULL;
    bool good = PyTuple_GET_SIZE(tuple) == count;
    for (Py_ssize_t i = 0; good && i < count; i++)
        good = PyTuple_GET_ITEM(tuple, i) == Py_None || PyBytes_Check(PyTuple_GET_ITEM(tuple, i));
    if (!good) {
        Py_DECREF(tuple);
        PyErr_Format(PyExc_ValueError, "encoded: expected %zd bytes objects or None", count);
        return NULL;
    }
    return tuple;
}

static PyObject *finish(Decoder *self, Job *job)
{
    if (self->process != getpid()) {
        PyErr_SetString(PyExc_RuntimeError, "a Decoder made before a fork has no threads in the child; make another");
        return NULL;
    }
    job->left = job->count;
    if (job->count > 0) {
        Py_BEGIN_ALLOW_THREADS
        carry_out(self, job);
        Py_END_ALLOW_THREADS
    }
    Py_RETURN_NONE;
}

PyDoc_STRVAR(render_doc,
             "render(encoded, file, places, views, bicubic, pixels, status)\n--\n\n"
             "Fill `pixels`, (n, side, side, 3) uint8, with what `views`, (n, 9) int64, show of n JPEGs.\n\n"
             "Their bytes are in the sequence `encoded`, or, if that is None, in the open file with the descriptor `file` at\n"
             "`places`, (n, 3) int64: offset, length, crc32, which is checked. A row of `views`: left, top, width, height of a\n"
             "box, width and height that it is resized to, left and top of the window in it, flip. Rows whose `status`, (n,)\n"
             "int32, is not 0 are passed over; afterwards it is 0 for those that were filled.");

static PyObject *Decoder_render(Decoder *self, PyObject *args)
{
    PyObject *encoded, *places, *views, *pixels, *status, *result = NULL;
    Py_buffer place_array, view_array, pixel_array, status_array;
    int file, bicubic;
    Job job = {0};
    if (!PyArg_ParseTuple(args, "OiOOpOO", &encoded, &file, &places, &views, &bicubic, &pixels, &status))
        return NULL;
    job.count = PyObject_Length(status);
    if (job.count < 0 || !array(status, "status", job.count, sizeof(int32_t), true, &status_array))
        return NULL;
    if (!array(views, "views", job.count, sizeof(View), false, &view_array))
        goto no_views;
    if (!array(places, "places", job.count, sizeof(Place), false, &place_array))
        goto no_places;
    if (PyObject_GetBuffer(pixels, &pixel_array, PyBUF_C_CONTIGUOUS | PyBUF_WRITABLE) < 0)
        goto no_pixels;
    job.side = pixel_array.ndim == 4 && pixel_array.shape[1] < 1 << 15 ? (int)pixel_array.shape[1] : 0;
    if (pixel_array.len != job.count * job.side * job.side * 3) {
        PyErr_Format(PyExc_ValueError, "pixels: expected (%zd, side, side, 3) uint8", job.count);
        goto done;
    }
    if (encoded != Py_None && (job.encoded = tuple_of_bytes(encoded, job.count)) == NULL)
        goto done;
    job.file = file;
    job.places = place_array.buf;
    job.views = view_array.buf;
    job.bicubic = bicubic != 0;
    job.pixels = pixel_array.buf;
    job.status = status_array.buf;
    result = finish(self, &job);
    Py_XDECREF(job.encoded);
done:
    PyBuffer_Release(&pixel_array);
no_pixels:
    PyBuffer_Release(&place_array);
no_places:
    PyBuffer_Release(&view_array);
no_views:
    PyBuffer_Release(&status_array);
    return result;
}

PyDoc_STRVAR(measure_doc, "measure(encoded, views, whole)\n--\n\n"
                          "Decode the boxes of `views`, (n, 9) int64, in n JPEGs, or all of each if `whole`, and throw the\n"
                          "pixels away. How many were decoded.");

static PyObject *Decoder_measure(Decoder *self, PyObject *args)
{
    PyObject *encoded, *views, *result = NULL;
    Py_buffer view_array;
    int whole;
    Job job = {0};
    if (!PyArg_ParseTuple(args, "OOp", &encoded, &views, &whole))
        return NULL;
    job.count = PyObject_Length(views);
    if (job.count < 0 || !array(views, "views", job.count, sizeof(View), false, &view_array))
        return NULL;
    job.encoded = tuple_of_bytes(encoded, job.count);
    job.status = PyMem_Calloc((size_t)job.count + 1, sizeof *job.status);
    job.views = view_array.buf;
    job.decode_only = true;
    job.whole = whole != 0;
    if (job.encoded != NULL && job.status != NULL && finish(self, &job) != NULL) {
        Py_ssize_t decoded = 0;
        for (Py_ssize_t i = 0; i < job.count; i++)
            decoded += job.status[i] == FILLED;
        result = PyLong_FromSsize_t(decoded);
    }
    PyMem_Free(job.status);
    Py_XDECREF(job.encoded);
    PyBuffer_Release(&view_array);
    return result;
}

static PyMethodDef Decoder_methods[] = {
    {"render", (PyCFunction)Decoder_render, METH_VARARGS, render_doc},
    {"measure", (PyCFunction)Decoder_measure, METH_VARARGS, measure_doc},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot Decoder_slots[] = {
    {Py_tp_new, Decoder_new},
    {Py_tp_dealloc, Decoder_dealloc},
    {Py_tp_methods, Decoder_methods},
    {Py_tp_doc, "Decoder(threads)\n--\n\nThreads that fill batches with crops of JPEGs; they end with the object."},
    {0, NULL},
};

static PyType_Spec Decoder_spec = {"data.region_decoder.Decoder", sizeof(Decoder), 0, Py_TPFLAGS_DEFAULT, Decoder_slots};

PyDoc_STRVAR(interrupted_doc,
             "scan_is_interrupted(encoded, scan)\n--\n\n"
             "Whether a marker other than the end stands in the bytes of a JPEG from `scan` on, as in data.header.");

static PyObject *scan_is_interrupted(PyObject *module, PyObject *args)
{
    const char *encoded;
    Py_ssize_t bytes, scan;
    (void)module;
    if (!PyArg_ParseTuple(args, "y#n", &encoded, &bytes, &scan))
        return NULL;
    if (scan < 0 || scan > bytes)
        return PyErr_Format(PyExc_ValueError, "scan: %zd, expected 0 to %zd", scan, bytes);
    return PyBool_FromLong(region_interrupted((const uint8_t *)encoded + scan, (size_t)(bytes - scan)));
}

static PyMethodDef functions[] = {
    {"scan_is_interrupted", scan_is_interrupted, METH_VARARGS, interrupted_doc},
    {NULL, NULL, 0, NULL},
};

static int execute(PyObject *module)
{
    crc32_prepare();
    PyObject *type = PyType_FromSpec(&Decoder_spec);
    int failed = type == NULL || PyModule_AddObjectRef(module, "Decoder", type) < 0;
    Py_XDECREF(type);
    return failed ? -1 : 0;
}

static PyModuleDef_Slot module_slots[] = {{Py_mod_exec, execute}, {0, NULL}};

static struct PyModuleDef module = {
    PyModuleDef_HEAD_INIT, "region_decoder", "Crops of JPEGs, decoded and resized in threads (libjpeg-turbo).", 0, functions,
    module_slots,          NULL,             NULL,                                                             NULL,
};

PyMODINIT_FUNC PyInit_region_decoder(void)
{
    return PyModuleDef_Init(&module);
}
