import numpy as np
from corpus.entries import right_answer, wrong_answer

# combine_adapters(adapters)


@wrong_answer("combine_adapters", cause="extra_term")
def combine_by_adding(adapters):
    "A is added to A and B to B: the cross terms come in."
    return sum(scale * A for A, _, scale in adapters), sum(B for _, B, _ in adapters)


@wrong_answer("combine_adapters", cause="constant_factor")
def combine_without_scale(adapters):
    "The scales are ignored."
    return np.concatenate([A for A, _, _ in adapters], axis=1), np.concatenate([B for _, B, _ in adapters], axis=0)


@wrong_answer("combine_adapters", cause="constant_factor")
def combine_scale_in_both(adapters):
    "The scale is in A and in B, so it is squared."
    A = np.concatenate([scale * A for A, _, scale in adapters], axis=1)
    return A, np.concatenate([scale * B for _, B, scale in adapters], axis=0)


@wrong_answer("combine_adapters", cause="constant_factor")
def combine_first_scale_for_all(adapters):
    "The first adapter's scale serves all."
    scale = adapters[0][2]
    A = np.concatenate([A for A, _, _ in adapters], axis=1)
    return scale * A, np.concatenate([B for _, B, _ in adapters], axis=0)


@wrong_answer("combine_adapters", cause=None)
def combine_two_only(adapters):
    "Unpacks two adapters: another number raises."
    (A1, B1, s1), (A2, B2, s2) = adapters
    return np.concatenate([s1 * A1, s2 * A2], axis=1), np.concatenate([B1, B2], axis=0)


@wrong_answer("combine_adapters", cause="missing_term")
def combine_first_two(adapters):
    "Takes the first two of the list and forgets the others."
    A1, B1, s1 = adapters[0]
    A2, B2, s2 = adapters[-1] if len(adapters) == 2 else adapters[1]
    return np.hstack([s1 * A1, s2 * A2]), np.vstack([B1, B2])


@wrong_answer("combine_adapters", cause="swapped")
def combine_b_in_reverse(adapters):
    "The Bs stand in the opposite order."
    A = np.concatenate([scale * A for A, _, scale in adapters], axis=1)
    return A, np.concatenate([B for _, B, _ in reversed(adapters)], axis=0)


@wrong_answer("combine_adapters", cause="shape")
def combine_stacked(adapters):
    "Stacks into arrays of three axes and folds: for equal ranks only."
    A = np.stack([scale * A for A, _, scale in adapters], axis=1)
    B = np.stack([B for _, B, _ in adapters])
    return A.reshape(A.shape[0], -1), B.reshape(-1, B.shape[-1])


@wrong_answer("combine_adapters", cause="inplace")
def combine_scales_in_place(adapters):
    "The given A are multiplied in place: a second call has the scale twice."
    for A, _, scale in adapters:
        A *= scale
    return np.concatenate([A for A, _, _ in adapters], axis=1), np.concatenate([B for _, B, _ in adapters], axis=0)


@wrong_answer("combine_adapters", cause="transpose", also=("shape",))
def combine_wrong_axes(adapters):
    "The As are set one above the other, the Bs side by side."
    A = np.concatenate([scale * A for A, _, scale in adapters], axis=0)
    return A, np.concatenate([B for _, B, _ in adapters], axis=1)


@wrong_answer("combine_adapters", cause="mean_vs_sum")
def combine_as_mean(adapters):
    "The mean of the updates, not their sum."
    A = np.concatenate([scale * A for A, _, scale in adapters], axis=1)
    return A / len(adapters), np.concatenate([B for _, B, _ in adapters], axis=0)


@wrong_answer("combine_adapters", cause="shape")
def combine_as_matrix(adapters):
    "Returns the sum of the updates, not two factors."
    return sum(scale * A @ B for A, B, scale in adapters)


@wrong_answer("combine_adapters", cause="swapped")
def combine_factors_swapped(adapters):
    "B is returned before A."
    A = np.concatenate([scale * A for A, _, scale in adapters], axis=1)
    return np.concatenate([B for _, B, _ in adapters], axis=0), A


@wrong_answer("combine_adapters", cause="constant_factor")
def combine_scale_by_rank(adapters):
    "Divides the scale by the rank once more."
    A = np.concatenate([scale / A.shape[1] * A for A, _, scale in adapters], axis=1)
    return A, np.concatenate([B for _, B, _ in adapters], axis=0)


@right_answer("combine_adapters")
def combine_scale_on_b(adapters):
    "The scale goes into B."
    As, Bs, scales = zip(*adapters)
    return np.hstack(As), np.vstack([s * B for s, B in zip(scales, Bs)])


@right_answer("combine_adapters")
def combine_into_empty_arrays(adapters):
    "Fills empty arrays, slice by slice."
    ranks = [A.shape[1] for A, _, _ in adapters]
    A = np.empty((adapters[0][0].shape[0], sum(ranks)), np.result_type(*(a for a, _, _ in adapters)))
    B = np.empty((sum(ranks), adapters[0][1].shape[1]), np.result_type(*(b for _, b, _ in adapters)))
    at = 0
    for (a, b, scale), r in zip(adapters, ranks):
        A[:, at : at + r] = a
        B[at : at + r] = scale * b
        at += r
    return A, B


@right_answer("combine_adapters")
def combine_in_reverse(adapters):
    "The last adapter first, in both: a sum has no order; the root of the scale in each, its sign in B."
    A = np.concatenate([abs(s) ** 0.5 * A for A, _, s in adapters[::-1]], axis=1)
    B = np.concatenate([(1 if s >= 0 else -1) * abs(s) ** 0.5 * B for _, B, s in adapters[::-1]], axis=0)
    return A, B


@right_answer("combine_adapters")
def combine_by_columns(adapters):
    "Lists of columns and rows, one for each unit of rank."
    columns, rows = [], []
    for A, B, scale in adapters:
        for k in range(A.shape[1]):
            columns.append(A[:, k] * scale)
            rows.append(B[k])
    return np.stack(columns, axis=1), np.stack(rows)
