"""Operations of lora_np. The rules were made with these in sight."""
