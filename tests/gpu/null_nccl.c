/* NCCL of the null GPU (null_gpu.c). A rank finds its own values where those of the others belong, as if all ranks had the same. */

#include <stdlib.h>
#include <string.h>

enum { SUCCESS = 0 };
void null_collective(void);
int null_is_capturing(void);
int cudaMalloc(void **p, size_t size);
int cudaFree(void *p);

struct ncclUniqueId { char bytes[128]; };
#define COLLECTIVE(function) int function() { null_collective(); return SUCCESS; }
static int join(void **communicator, int ranks, int rank) {
    int *own = malloc(2 * sizeof *own);
    own[0] = ranks;
    own[1] = rank;
    *communicator = own;
    return SUCCESS;
}
int ncclGetUniqueId(struct ncclUniqueId *id) { memset(id, 1, sizeof *id); return SUCCESS; }
int ncclCommInitRank(void **c, int ranks, struct ncclUniqueId id, int rank) { return join(c, ranks, rank); }
int ncclCommInitRankConfig(void **c, int ranks, struct ncclUniqueId id, int rank, void *config) { return join(c, ranks, rank); }
int ncclCommInitRankScalable(void **c, int ranks, int rank, int n, void *ids, void *config) { return join(c, ranks, rank); }
int ncclCommSplit(int *c, int color, int key, void **child, void *config) { return join(child, c[0], c[1]); }
int ncclCommCount(int *c, int *ranks) { *ranks = c[0]; return SUCCESS; }
int ncclCommUserRank(int *c, int *rank) { *rank = c[1]; return SUCCESS; }
int ncclCommDestroy(int *c) { free(c); return SUCCESS; }
int ncclCommAbort(int *c) { return ncclCommDestroy(c); }
int ncclCommGetAsyncError(void *c, int *error) { *error = SUCCESS; return SUCCESS; }
int ncclMemAlloc(void **p, size_t size) { return cudaMalloc(p, size); }
int ncclMemFree(void *p) { return cudaFree(p); }
static size_t bytes(size_t count, int type) {
    static const char widths[] = {1, 1, 4, 4, 8, 8, 2, 4, 8, 2, 1, 1}; /* by ncclDataType_t */
    return count * widths[type];
}
static int place(const void *from, char *to, size_t size, int ranks) {
    for (int i = 0; !null_is_capturing() && i < ranks && size <= 1 << 16; i++) memmove(to + i * size, from, size);
    return SUCCESS;
}
int ncclAllGather(void *from, void *to, size_t n, int type, int *c, void *stream) {
    null_collective();
    return place(from, to, bytes(n, type), c[0]);
}
int ncclAllReduce(void *from, void *to, size_t n, int type, int operation, void *c, void *stream) {
    null_collective();
    return place(from, to, bytes(n, type), 1);
}
/* Torch gathers into separate tensors by a group of broadcasts, one from each rank. */
static __thread struct { void *from; size_t size; } own;
static __thread struct { void *to; size_t size; } received[1024];
static __thread int n_received, depth;
int ncclBroadcast(void *from, void *to, size_t n, int type, int root, int *c, void *stream) {
    null_collective();
    if (root == c[1]) {
        own.from = from;
        own.size = bytes(n, type);
        return place(from, to, own.size, 1);
    }
    if (depth && n_received < 1024) {
        received[n_received].to = to;
        received[n_received++].size = bytes(n, type);
    }
    return SUCCESS;
}
int ncclGroupStart(void) { depth++; return SUCCESS; }
int ncclGroupEnd(void) {
    if (--depth) return SUCCESS;
    for (int i = 0; i < n_received && own.from; i++)
        if (received[i].size == own.size) place(own.from, received[i].to, own.size, 1);
    n_received = 0;
    own.from = NULL;
    return SUCCESS;
}
COLLECTIVE(ncclBcast) COLLECTIVE(ncclReduce) COLLECTIVE(ncclReduceScatter) COLLECTIVE(ncclGather) COLLECTIVE(ncclAlltoAll)
COLLECTIVE(ncclSend) COLLECTIVE(ncclRecv)
