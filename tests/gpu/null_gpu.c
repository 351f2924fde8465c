/* A null GPU for tests: the functions of the CUDA runtime and driver, cuBLAS and cuDNN that torch and Triton call, with
 * memory of the host and kernels that do nothing. null_gpu.py builds it and preloads it. NULL_GPUS=N makes N of them.
 *
 * It counts what the host asks for, and refuses what a GPU refuses while a graph is captured. It computes nothing: memory holds
 * zeros or what the host has copied there, and a truth value that is read from it is true. Functions that are not here do nothing
 * and succeed: null_gpu.py adds them.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <driver_types.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#pragma GCC visibility push(default)
typedef unsigned long long u64;
enum { SUCCESS = 0, REFUSED = 900, INVALIDATED = 901 }; /* cudaErrorStreamCaptureUnsupported, -Invalidated */
enum { NOWHERE = 0, PINNED = 1, DEVICE = 2 }; /* cudaMemoryType: of memory of the process, of pinned memory, of the device */
static void *const SOME = (void *)16; /* the handle of everything */
#define GIVE(function) int function(void **handle) { *handle = SOME; return SUCCESS; }

/* Counters */
#define COUNTERS(_) \
    _(launches) _(products) _(convolutions) _(uploads) _(pageable_uploads) _(downloads) _(copies) _(memsets) \
    _(captures) _(captured) _(graph_launches) _(collectives) _(waits) _(refused)
#define COMMA(name) name,
#define TEXT(name) #name,
enum counter { COUNTERS(COMMA) N_COUNTERS };
static const char *const names[] = {COUNTERS(TEXT)};
static u64 counts[N_COUNTERS];
static void *capturing; /* the stream that is captured, or NULL */
static u64 capture_id;
static int capture_mode;
static int invalidated; /* something was refused since the capture began */
static __thread int current; /* device of the thread */

static void add(enum counter counter) { __sync_fetch_and_add(&counts[capturing ? captured : counter], 1); }
void null_collective(void) { add(collectives); } /* for null_nccl.c, as the next */
int null_is_capturing(void) { return capturing != NULL; }
static int refuse(const char *what) {
    counts[refused]++;
    invalidated = 1;
    fprintf(stderr, "null GPU: %s while a graph is captured\n", what);
    return REFUSED;
}
static int wait_unless_captured(const char *function) {
    if (capturing) return refuse(function);
    add(waits);
    return SUCCESS;
}
void null_reset(void) { memset(counts, 0, sizeof counts); }
const char *null_name(int counter) { return counter < N_COUNTERS ? names[counter] : NULL; }
u64 null_count(int counter) { return counts[counter]; }

/* Memory */
struct block { char *start; size_t size; int kind, device; };
static struct block blocks[1 << 16];
static int n_blocks;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static struct block *block_of(const void *address) {
    for (struct block *b = blocks; b < blocks + n_blocks; b++)
        if (b->start && (char *)address >= b->start && (char *)address < b->start + b->size) return b;
    return NULL;
}
static struct block found_at(const void *address) {
    pthread_mutex_lock(&lock);
    struct block *found = block_of(address), out = found ? *found : (struct block){.kind = NOWHERE};
    pthread_mutex_unlock(&lock);
    return out;
}
static int kind_of(const void *address) { return found_at(address).kind; }
static int allocate(void **address, size_t size, int kind) {
    size = size ? size : 1;
    *address = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    pthread_mutex_lock(&lock);
    int i = 0;
    while (i < n_blocks && blocks[i].start) i++;
    if (i == n_blocks) n_blocks++;
    blocks[i] = (struct block){*address, size, kind, current};
    pthread_mutex_unlock(&lock);
    return SUCCESS;
}
static int release(void *address) {
    pthread_mutex_lock(&lock);
    struct block *found = address ? block_of(address) : NULL;
    if (found) { munmap(found->start, found->size); found->start = NULL; }
    pthread_mutex_unlock(&lock);
    return SUCCESS;
}
int cudaMalloc(void **p, size_t size) { return allocate(p, size, DEVICE); }
int cudaFree(void *p) { return release(p); }
int cudaHostAlloc(void **p, size_t size, unsigned flags) {
    return capturing && !capture_mode ? refuse("cudaHostAlloc") : allocate(p, size, PINNED);
}
int cudaMallocHost(void **p, size_t size) { return cudaHostAlloc(p, size, 0); }
int cudaFreeHost(void *p) { return release(p); }
int cudaMemGetInfo(size_t *left, size_t *total) { *total = 80ul << 30; *left = 79ul << 30; return SUCCESS; }
int cudaPointerGetAttributes(struct cudaPointerAttributes *out, const void *p) {
    memset(out, 0, sizeof *out);
    struct block found = found_at(p);
    out->type = found.kind;
    out->device = out->type ? found.device : -2;
    out->devicePointer = out->hostPointer = (void *)p;
    return SUCCESS;
}
static int copy(void *to, const void *from, size_t size, int asynchronous) {
    int target = kind_of(to), source = kind_of(from);
    int pageable = (target == DEVICE && source == NOWHERE) || (source == DEVICE && target == NOWHERE);
    if (capturing && (pageable || !asynchronous)) return refuse("a copy of pageable memory");
    add(target == DEVICE ? source == DEVICE ? copies : uploads : downloads);
    if (pageable && target == DEVICE) add(pageable_uploads);
    if (capturing) return SUCCESS;
    if (target == DEVICE && source == DEVICE && size > 1 << 16) return SUCCESS; /* large values are not needed */
    memcpy(to, from, size);
    if (source == DEVICE && target != DEVICE && size == 1) *(char *)to = 1; /* a truth value: whether all is well */
    return SUCCESS;
}
int cudaMemcpyAsync(void *to, const void *from, size_t size, int kind, void *stream) { return copy(to, from, size, 1); }
int cudaMemcpy(void *to, const void *from, size_t size, int kind) { return copy(to, from, size, 0); }
int cudaMemcpy2DAsync(char *to, size_t to_pitch, char *from, size_t from_pitch, size_t width, size_t height, int k, void *s) {
    int error = SUCCESS;
    for (size_t i = 0; i < height && !error; i++) error = copy(to + i * to_pitch, from + i * from_pitch, width, 1);
    return error;
}
int cudaMemsetAsync(void *p, int value, size_t size, void *stream) {
    add(memsets);
    if (!capturing) memset(p, value, size <= 1 << 16 ? size : 1 << 16);
    return SUCCESS;
}
int cudaMemset(void *p, int value, size_t size) { return cudaMemsetAsync(p, value, size, NULL); }

/* The device: what torch and Triton ask of an H100 */
int cudaGetDeviceCount(int *count) {
    const char *asked = getenv("NULL_GPUS"), *visible = getenv("CUDA_VISIBLE_DEVICES");
    int all = asked ? atoi(asked) : 1, listed = 0;
    for (const char *c = visible; c && *c; c++) listed += c == visible || c[-1] == ',';
    *count = visible && listed < all ? listed : all;
    return SUCCESS;
}
int cuDeviceGetCount(int *count) { return cudaGetDeviceCount(count); }
int cudaGetDevice(int *device) { *device = current; return SUCCESS; }
int cudaSetDevice(int device) { current = device; return SUCCESS; }
int cuDeviceGet(int *device, int i) { *device = i; return SUCCESS; }
int cuCtxGetDevice(int *device) { return cudaGetDevice(device); }
int cudaDriverGetVersion(int *version) { *version = 13020; return SUCCESS; }
int cuDriverGetVersion(int *version) { *version = 13020; return SUCCESS; }
int cudaRuntimeGetVersion(int *version) { *version = 13000; return SUCCESS; }
const char *cudaGetErrorString(int error) { return error == REFUSED ? "not permitted while a graph is captured" : "null GPU"; }
const char *cudaGetErrorName(int error) { return "null GPU"; }
int cudaGetDeviceProperties(struct cudaDeviceProp *p, int device) {
    memset(p, 0, sizeof *p);
    strcpy(p->name, "null GPU");
    p->major = 9;
    p->totalGlobalMem = 80ul << 30;
    p->multiProcessorCount = 132;
    p->warpSize = 32;
    p->sharedMemPerBlock = 48 << 10;
    p->sharedMemPerBlockOptin = 227 << 10;
    p->sharedMemPerMultiprocessor = 228 << 10;
    p->maxThreadsPerMultiProcessor = 2048;
    p->maxThreadsPerBlock = p->maxThreadsDim[0] = p->maxThreadsDim[1] = 1024;
    p->maxThreadsDim[2] = 64;
    p->regsPerMultiprocessor = p->regsPerBlock = 65536;
    p->l2CacheSize = 50 << 20;
    p->maxGridSize[0] = 2147483647;
    p->maxGridSize[1] = p->maxGridSize[2] = 65535;
    p->textureAlignment = 512;
    return SUCCESS;
}
int cudaDeviceGetAttribute(int *value, int attribute, int device) {
    static const int values[128] = { /* by enum cudaDeviceAttr */
        [1] = 1024, [2] = 1024, [3] = 1024, [4] = 64, [5] = 2147483647, [6] = 65535, [7] = 65535, [8] = 49152, [9] = 65536,
        [10] = 32, [12] = 65536, [13] = 1980000, [14] = 512, [16] = 132, [36] = 2619000, [37] = 5120, [38] = 50 << 20,
        [39] = 2048, [75] = 9, [81] = 233472, [82] = 65536, [95] = 1, [97] = 232448, [106] = 32};
    *value = attribute >= 0 && attribute < 128 ? values[attribute] : 0;
    return SUCCESS;
}
int cuDeviceGetAttribute(int *value, int attribute, int device) { return cudaDeviceGetAttribute(value, attribute, device); }
int cudaDeviceCanAccessPeer(int *can, int device, int other) { *can = 0; return SUCCESS; }
int cudaDeviceGetStreamPriorityRange(int *least, int *greatest) { *least = 0; *greatest = -5; return SUCCESS; }
static int nothing(void) { return SUCCESS; }
static int find(const char *name, void **function, int *status) {
    *function = dlsym(RTLD_DEFAULT, name);
    if (!*function) *function = (void *)nothing;
    if (status) *status = 0;
    return SUCCESS;
}
int cudaGetDriverEntryPointByVersion(const char *n, void **f, unsigned version, u64 flags, int *s) { return find(n, f, s); }
int cudaGetDriverEntryPoint(const char *n, void **f, u64 flags, int *s) { return find(n, f, s); }
int cuGetProcAddress_v2(const char *n, void **f, int version, u64 flags, int *s) { return find(n, f, s); }

/* Streams and events */
int cudaStreamCreateWithPriority(void **stream, unsigned flags, int priority) {
    static long last = 0x1000;
    *stream = (void *)__sync_add_and_fetch(&last, 16);
    return SUCCESS;
}
int cudaStreamGetPriority(void *stream, int *priority) { *priority = 0; return SUCCESS; }
int cudaStreamSynchronize(void *stream) { return wait_unless_captured("cudaStreamSynchronize"); }
int cuStreamSynchronize(void *stream) { return wait_unless_captured("cuStreamSynchronize"); }
int cudaDeviceSynchronize(void) { return wait_unless_captured("cudaDeviceSynchronize"); }
int cuCtxSynchronize(void) { return wait_unless_captured("cuCtxSynchronize"); }
int cudaEventSynchronize(void *event) { return wait_unless_captured("cudaEventSynchronize"); }
int cudaEventQuery(void *event) { return capturing && !capture_mode ? refuse("cudaEventQuery") : SUCCESS; }
int cudaStreamQuery(void *stream) { return capturing ? refuse("cudaStreamQuery") : SUCCESS; }
int cudaEventCreateWithFlags(struct timespec **event, unsigned flags) { *event = calloc(1, sizeof **event); return SUCCESS; }
int cudaEventCreate(struct timespec **event) { return cudaEventCreateWithFlags(event, 0); }
int cudaEventRecordWithFlags(struct timespec *e, void *s, unsigned flags) { clock_gettime(CLOCK_MONOTONIC, e); return SUCCESS; }
int cudaEventRecord(struct timespec *event, void *stream) { return cudaEventRecordWithFlags(event, stream, 0); }
int cudaEventElapsedTime(float *ms, struct timespec *a, struct timespec *b) {
    *ms = (b->tv_sec - a->tv_sec) * 1e3f + (b->tv_nsec - a->tv_nsec) * 1e-6f + 1e-3f;
    return SUCCESS;
}

/* Graphs */
int cudaStreamBeginCapture(void *stream, int mode) {
    if (capturing) return REFUSED;
    add(captures);
    capturing = stream ? stream : SOME;
    capture_mode = mode;
    invalidated = 0;
    capture_id++;
    return SUCCESS;
}
int cudaStreamEndCapture(void *stream, void **graph) {
    capturing = NULL;
    *graph = invalidated ? NULL : SOME;
    return invalidated ? INVALIDATED : SUCCESS;
}
int cudaStreamIsCapturing(void *stream, int *status) { *status = stream && capturing == stream; return SUCCESS; }
int cuStreamIsCapturing(void *stream, int *status) { return cudaStreamIsCapturing(stream, status); }
int cudaStreamGetCaptureInfo(void *s, int *status, u64 *id, void **graph, void **dependencies, void **edges, size_t *count) {
    if (id) *id = capture_id;
    if (graph) *graph = SOME;
    if (dependencies) *dependencies = NULL;
    if (count) *count = 0;
    return cudaStreamIsCapturing(s, status);
}
int cudaStreamGetCaptureInfo_v2(void *s, int *status, u64 *id, void **graph, void **dependencies, size_t *count) {
    return cudaStreamGetCaptureInfo(s, status, id, graph, dependencies, NULL, count);
}
GIVE(cudaGraphInstantiate) GIVE(cudaGraphInstantiateWithFlags) GIVE(cudaUserObjectCreate)
int cudaGraphGetNodes(void *graph, void **nodes, size_t *count) { *count = 1; if (nodes) *nodes = SOME; return SUCCESS; }
int cudaGraphNodeGetDependencies(void *node, void **out, void *edges, size_t *count) { *count = 0; return SUCCESS; }
int cudaGraphLaunch(void *graph, void *stream) { add(graph_launches); return SUCCESS; }
int cudaThreadExchangeStreamCaptureMode(int *mode) {
    static __thread int own;
    int before = own;
    own = *mode;
    *mode = before;
    return SUCCESS;
}

/* Kernels: of torch, of Triton, of cuBLAS and cuDNN */
#define COUNT(function, counter) int function() { add(counter); return SUCCESS; }
COUNT(cudaLaunchKernel, launches) COUNT(__cudaLaunchKernel, launches) COUNT(cudaLaunchKernelExC, launches)
COUNT(cudaLaunchCooperativeKernel, launches) COUNT(cuLaunchKernel, launches) COUNT(cuLaunchKernelEx, launches)
int __cudaPopCallConfiguration(void *grid, void *block, size_t *shared, void **stream) {
    memset(grid, 0, 12);
    memset(block, 0, 12);
    *shared = 0;
    *stream = NULL;
    return SUCCESS;
}
int __cudaGetKernel(void **kernel, void *function) { *kernel = function; return SUCCESS; }
int cudaFuncGetAttributes(struct cudaFuncAttributes *out, const void *function) {
    memset(out, 0, sizeof *out);
    out->maxThreadsPerBlock = 1024;
    out->numRegs = 32;
    out->binaryVersion = out->ptxVersion = 90;
    return SUCCESS;
}
int cudaOccupancyMaxActiveBlocksPerMultiprocessor(int *n) { *n = 2; return SUCCESS; }
int cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(int *n) { *n = 2; return SUCCESS; }
int cudaGetSymbolAddress(void **address, const void *symbol) { static char room[1 << 20]; *address = room; return SUCCESS; }
int cuDevicePrimaryCtxGetState(int device, unsigned *flags, int *active) { *flags = 0; *active = 1; return SUCCESS; }
int cuDevicePrimaryCtxRetain(void **context, int device) { *context = SOME; return SUCCESS; }
GIVE(cuCtxGetCurrent) GIVE(cuModuleLoad) GIVE(cuModuleLoadData) GIVE(cuModuleLoadDataEx) GIVE(cuModuleGetFunction)
GIVE(cuLibraryLoadData) GIVE(cuLibraryLoadFromFile) GIVE(cuLibraryGetKernel) GIVE(cuKernelGetFunction)
int cuStreamGetCtx(void *stream, void **context) { *context = SOME; return SUCCESS; }
int cuFuncGetAttribute(int *value, int attribute, void *function) {
    *value = attribute == 0 ? 1024 : attribute == 4 ? 32 : 0; /* threads per block, registers */
    return SUCCESS;
}
int cuGetErrorString(int error, const char **text) { *text = "null GPU"; return SUCCESS; }
int cuPointerGetAttribute(void *out, int attribute, u64 p) {
    if (attribute == 3) *(u64 *)out = p; else *(int *)out = 0; /* CU_POINTER_ATTRIBUTE_DEVICE_POINTER */
    return SUCCESS;
}
/* Triton finds these by name */
#define DO_NOTHING(function) int function() { return SUCCESS; }
DO_NOTHING(cuInit) DO_NOTHING(cuCtxSetCurrent) DO_NOTHING(cuCtxGetLimit) DO_NOTHING(cuCtxSetLimit)
DO_NOTHING(cuFuncSetAttribute) DO_NOTHING(cuFuncSetCacheConfig) DO_NOTHING(cuModuleUnload)
DO_NOTHING(cuOccupancyMaxActiveClusters) DO_NOTHING(cuTensorMapEncodeTiled) DO_NOTHING(cuTensorMapEncodeIm2col)

/* cuBLAS */
GIVE(cublasCreate_v2) GIVE(cublasLtCreate) GIVE(cublasLtMatmulDescCreate) GIVE(cublasLtMatmulPreferenceCreate)
GIVE(cublasLtMatrixLayoutCreate)
COUNT(cublasGemmEx, products) COUNT(cublasGemmStridedBatchedEx, products) COUNT(cublasSgemm_v2, products)
COUNT(cublasSgemmStridedBatched, products) COUNT(cublasSgemmEx, products) COUNT(cublasSgemv_v2, products)
COUNT(cublasLtMatmul, products)
int cublasGetMathMode(void *handle, int *mode) { *mode = 0; return SUCCESS; }
int cublasGetPointerMode_v2(void *handle, int *mode) { *mode = 0; return SUCCESS; }
int cublasLtMatmulAlgoGetHeuristic(
    void *h, void *o, void *a, void *b, void *c, void *d, void *p, int asked, char *results, int *found) {
    memset(results, 0, 96); /* cublasLtMatmulHeuristicResult_t */
    *found = 1;
    return SUCCESS;
}

/* cuDNN */
GIVE(cudnnCreate) GIVE(cudnnCreateActivationDescriptor) GIVE(cudnnCreateTensorDescriptor)
COUNT(cudnnBackendExecute, convolutions) COUNT(cudnnBatchNormalizationForwardTrainingEx, convolutions)
COUNT(cudnnBatchNormalizationBackwardEx, convolutions) COUNT(cudnnBatchNormalizationForwardInference, convolutions)
int cudnnBackendCreateDescriptor(int type, void **descriptor) { *descriptor = SOME; return SUCCESS; }
int cudnnBackendGetAttribute(void *descriptor, int name, int type, long long asked, long long *found, void *out) {
    int whole = type == 3; /* CUDNN_TYPE_INT64 */
    long long n = name == 202 || (asked > 0 && whole); /* one result of the heuristic (202), one value of each number */
    if (name == 1302 || name == 1304) n = 0; /* no notes of numerics or behaviour */
    if (found) *found = n;
    if (out && n && whole) *(long long *)out = 0;
    return SUCCESS;
}
int cudnnGetBatchNormalizationForwardTrainingExWorkspaceSize(
    void *h, int m, int o, void *x, void *z, void *y, void *b, void *a, size_t *size) { *size = 0; return SUCCESS; }
int cudnnGetBatchNormalizationBackwardExWorkspaceSize(
    void *h, int m, int o, void *x, void *y, void *dy, void *dz, void *dx, void *b, void *a, size_t *size) {
    *size = 0;
    return SUCCESS;
}
int cudnnGetBatchNormalizationTrainingExReserveSpaceSize(void *h, int m, int o, void *a, void *x, size_t *size) {
    *size = 0;
    return SUCCESS;
}
int cudnnGetStream(void *handle, void **stream) { *stream = NULL; return SUCCESS; }
