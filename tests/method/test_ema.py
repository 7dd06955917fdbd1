import torch

from ibot.method.ema import update_teacher


def test_every_teacher_tensor_moves_towards_its_student_in_place():
    g = torch.Generator().manual_seed(0)
    pairs = [
        tuple(torch.randn(shape, generator=g) for _ in range(2)) for shape in ((3,), (2, 4), ())
    ]
    before = [(teacher.clone(), student.clone()) for teacher, student in pairs]
    for momentum in (0.9, 1.0, 0.0):
        update_teacher(pairs, momentum)
        for (teacher, student), (old, same) in zip(pairs, before, strict=True):
            torch.testing.assert_close(teacher, momentum * old + (1 - momentum) * same)
            assert torch.equal(student, same)
        before = [(teacher.clone(), student.clone()) for teacher, student in pairs]
