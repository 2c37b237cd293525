/* A small libnvidia-ml.so.1 whose GPUs are what a text file says, for tests of mlops.devices.nvidia.
 *
 * The file is named by $STUB_NVML and read anew whenever it has been replaced, so that a test can
 * change a GPU while it is being sampled. Each line is "key value":
 *
 *     gpus 2                    how many the node has
 *     driver 580.1              its version
 *     init.rc 9                 what nvmlInit returns (0 if absent)
 *     0.uuid GPU-…              of GPU 0; 0.name likewise
 *     0.rc 15                   what every question about GPU 0 returns
 *     0.open.rc 4               what getting its handle returns
 *     0.mig 1                   it is in MIG mode; 0.instances 2: and has that many
 *     0.mig1.uuid MIG-…         its instance 1, of which keys are as those of a GPU
 *     0.temperature 41          an answer; without its line the question is NOT_SUPPORTED
 *     0.temperature.rc 999      this return code instead
 *     0.field.83 5000000        a field of nvmlDeviceGetFieldValues, 0.field.83.rc likewise
 *     0.fields.rc 13            what nvmlDeviceGetFieldValues itself returns
 *
 * The structures are those of nvml.h as far as nvidia-ml-py uses them. stub_calls(key) counts how
 * often a question was asked of any GPU, stub_users() how many nvmlInit are not shut down yet.
 */
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

enum { OK = 0, UNINITIALIZED = 1, INVALID_ARGUMENT = 2, NOT_SUPPORTED = 3, NOT_FOUND = 6 };
enum { LINES = 4096, KEY = 64, VALUE = 96, DEVICES = 64, COUNTERS = 64 };

typedef struct { char prefix[KEY]; } device;
typedef struct { unsigned int fieldId, scopeId; long long timestamp, latencyUsec; unsigned int valueType;
                 int nvmlReturn; union { double d; unsigned int ui; unsigned long long ull; } value; } field_value;
typedef struct { unsigned long long total, free, used; } memory_info;
typedef struct { unsigned int gpu, memory; } utilization;

static struct { char key[KEY], value[VALUE]; } lines[LINES];
static struct { char key[KEY]; unsigned long count; } counters[COUNTERS];
static device devices[DEVICES];
static int line_count, device_count, counter_count, users;
static struct stat last_stat;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static void reload(void) {
    const char *path = getenv("STUB_NVML");
    struct stat now;
    if (path == NULL || stat(path, &now) != 0) { line_count = 0; return; }
    if (now.st_ino == last_stat.st_ino && now.st_mtim.tv_sec == last_stat.st_mtim.tv_sec &&
        now.st_mtim.tv_nsec == last_stat.st_mtim.tv_nsec && now.st_size == last_stat.st_size) return;
    FILE *file = fopen(path, "r");
    char text[KEY + VALUE];
    line_count = 0;
    while (file != NULL && line_count < LINES && fgets(text, sizeof text, file) != NULL)
        if (sscanf(text, "%63s %95[^\n]", lines[line_count].key, lines[line_count].value) == 2) line_count++;
    if (file != NULL) fclose(file);
    last_stat = now;
}

static const char *look_up(const char *prefix, const char *key) {
    char whole[2 * KEY];
    snprintf(whole, sizeof whole, "%s%s", prefix, key);
    for (int i = 0; i < line_count; i++)
        if (strcmp(lines[i].key, whole) == 0) return lines[i].value;
    return NULL;
}

static long look_up_number(const char *prefix, const char *key, long otherwise) {
    const char *found = look_up(prefix, key);
    return found != NULL ? atol(found) : otherwise;
}

static void count(const char *key) {
    int i = 0;
    while (i < counter_count && strcmp(counters[i].key, key) != 0) i++;
    if (i == COUNTERS) return;
    if (i == counter_count) snprintf(counters[counter_count++].key, KEY, "%s", key);
    counters[i].count++;
}

/* The answer to a question about a GPU: its text, or NULL and a return code. */
static const char *answer(device *gpu, const char *key, int *rc) {
    char rc_key[KEY];
    reload();
    count(key);
    snprintf(rc_key, sizeof rc_key, "%.50s.rc", key);
    *rc = users <= 0 ? UNINITIALIZED : gpu == NULL ? INVALID_ARGUMENT : (int)look_up_number(gpu->prefix, "rc", OK);
    if (*rc == OK) *rc = (int)look_up_number(gpu->prefix, rc_key, OK);
    const char *text = *rc == OK ? look_up(gpu->prefix, key) : NULL;
    if (*rc == OK && text == NULL) *rc = NOT_SUPPORTED;
    return text;
}

static int text_answer(device *gpu, const char *key, char *out, unsigned int length) {
    int rc;
    pthread_mutex_lock(&lock);
    const char *text = answer(gpu, key, &rc);
    if (rc == OK) snprintf(out, length, "%s", text);
    pthread_mutex_unlock(&lock);
    return rc;
}

static int number_answer(device *gpu, const char *key, unsigned long long *out) {
    int rc;
    pthread_mutex_lock(&lock);
    const char *text = answer(gpu, key, &rc);
    if (rc == OK) *out = strtoull(text, NULL, 10);
    pthread_mutex_unlock(&lock);
    return rc;
}

static int uint_answer(device *gpu, const char *key, unsigned int *out) {
    unsigned long long wide = 0;
    int rc = number_answer(gpu, key, &wide);
    if (rc == OK) *out = (unsigned int)wide;
    return rc;
}

static int handle_of(const char *prefix, device **out) {
    int i = 0, rc;
    pthread_mutex_lock(&lock);
    reload();
    while (i < device_count && strcmp(devices[i].prefix, prefix) != 0) i++;
    if (i == device_count && device_count < DEVICES) snprintf(devices[device_count++].prefix, KEY, "%s", prefix);
    *out = &devices[i];
    rc = users <= 0 ? UNINITIALIZED : (int)look_up_number(prefix, "open.rc", OK);
    pthread_mutex_unlock(&lock);
    return rc;
}

/* -- what tests ask -------------------------------------------------------------------------- */

int stub_users(void) { return users; }

unsigned long stub_calls(const char *key) {
    for (int i = 0; i < counter_count; i++)
        if (strcmp(counters[i].key, key) == 0) return counters[i].count;
    return 0;
}

void stub_reset(void) {
    users = line_count = counter_count = 0;
    memset(counters, 0, sizeof counters);
    memset(&last_stat, 0, sizeof last_stat);
}

/* -- NVML ------------------------------------------------------------------------------------ */

int nvmlInitWithFlags(unsigned int flags) {
    (void)flags;
    pthread_mutex_lock(&lock);
    reload();
    int rc = (int)look_up_number("", "init.rc", OK);
    if (rc == OK) users++;
    pthread_mutex_unlock(&lock);
    return rc;
}

int nvmlShutdown(void) {
    pthread_mutex_lock(&lock);
    int rc = users > 0 ? OK : UNINITIALIZED;
    if (users > 0) users--;
    pthread_mutex_unlock(&lock);
    return rc;
}

const char *nvmlErrorString(int rc) { (void)rc; return "an error of the stub"; }

int nvmlSystemGetDriverVersion(char *out, unsigned int length) {
    device node = {""};
    return text_answer(&node, "driver", out, length);
}

int nvmlDeviceGetCount_v2(unsigned int *out) {
    device node = {""};
    return uint_answer(&node, "gpus", out);
}

int nvmlDeviceGetHandleByIndex_v2(unsigned int index, device **out) {
    char prefix[KEY];
    snprintf(prefix, sizeof prefix, "%u.", index);
    return handle_of(prefix, out);
}

int nvmlDeviceGetMigDeviceHandleByIndex(device *gpu, unsigned int index, device **out) {
    char prefix[KEY];
    snprintf(prefix, sizeof prefix, "%.40smig%u.", gpu->prefix, index);
    return look_up(prefix, "uuid") == NULL ? NOT_FOUND : handle_of(prefix, out);
}

int nvmlDeviceGetUUID(device *gpu, char *out, unsigned int length) { return text_answer(gpu, "uuid", out, length); }
int nvmlDeviceGetName(device *gpu, char *out, unsigned int length) { return text_answer(gpu, "name", out, length); }
int nvmlDeviceGetMaxMigDeviceCount(device *gpu, unsigned int *out) { return uint_answer(gpu, "instances", out); }
int nvmlDeviceGetPowerUsage(device *gpu, unsigned int *out) { return uint_answer(gpu, "power", out); }
int nvmlDeviceGetEnforcedPowerLimit(device *gpu, unsigned int *out) { return uint_answer(gpu, "power_limit", out); }

int nvmlDeviceGetMigMode(device *gpu, unsigned int *current, unsigned int *pending) {
    int rc = uint_answer(gpu, "mig", current);
    *pending = *current;
    return rc;
}

int nvmlDeviceGetTotalEnergyConsumption(device *gpu, unsigned long long *out) {
    return number_answer(gpu, "energy", out);
}

int nvmlDeviceGetCurrentClocksEventReasons(device *gpu, unsigned long long *out) {
    return number_answer(gpu, "reasons", out);
}

int nvmlDeviceGetCurrentClocksThrottleReasons(device *gpu, unsigned long long *out) {
    return number_answer(gpu, "throttle_reasons", out);
}

int nvmlDeviceGetTemperature(device *gpu, unsigned int sensor, unsigned int *out) {
    return sensor == 0 ? uint_answer(gpu, "temperature", out) : INVALID_ARGUMENT;
}

int nvmlDeviceGetClockInfo(device *gpu, unsigned int type, unsigned int *out) {
    return uint_answer(gpu, type == 1 ? "sm_clock" : type == 2 ? "memory_clock" : "other_clock", out);
}

int nvmlDeviceGetTotalEccErrors(device *gpu, unsigned int error, unsigned int counter, unsigned long long *out) {
    return error == 1 && counter == 0 ? number_answer(gpu, "ecc", out) : INVALID_ARGUMENT;
}

int nvmlDeviceGetUtilizationRates(device *gpu, utilization *out) {
    int rc = uint_answer(gpu, "utilisation", &out->gpu);
    return rc == OK ? uint_answer(gpu, "memory_utilisation", &out->memory) : rc;
}

int nvmlDeviceGetMemoryInfo(device *gpu, memory_info *out) {
    int rc = number_answer(gpu, "memory_total", &out->total);
    if (rc == OK) rc = number_answer(gpu, "memory_used", &out->used);
    out->free = out->total - out->used;
    return rc;
}

int nvmlDeviceGetFieldValues(device *gpu, int length, field_value *values) {
    unsigned long long none;
    int rc = number_answer(gpu, "fields", &none);
    if (rc != OK) return rc;
    for (int i = 0; i < length; i++) {
        char key[KEY];
        snprintf(key, sizeof key, "field.%u", values[i].fieldId);
        int is_long = values[i].fieldId == 83; /* the energy counter; the others are unsigned int */
        unsigned long long number = 0;
        values[i].nvmlReturn = number_answer(gpu, key, &number);
        values[i].valueType = is_long ? 3 : 1;
        values[i].value.ull = 0xeeeeeeeeeeeeeeeeULL; /* what is not part of the answer is no zero */
        if (values[i].nvmlReturn == OK) {
            if (is_long) values[i].value.ull = number;
            else values[i].value.ui = (unsigned int)number;
        }
    }
    return OK;
}
